"""A callback that tells how entangled the pairs of a training loop are.

It asks for nothing but a log-probability per answer, so it fits any loop, also where the
parameters passed to it are those of an adapter:

    watch = EntanglementLog(log_prob, preference.dpo_loss, path, every=100)
    for step in range(num_steps):
        params = train(params, batch)
        watch(step, params, chosen, rejected, ref_chosen_logps, ref_rejected_logps)

Each record is a line of JSON. Shares of pairs per regime are logged, not a mean of their
cosines: it decides nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import entanglement
from jaxkit.typing import PyTree

QUANTILES = (0.1, 0.5, 0.9)


class EntanglementLog:
    """Writes a line of JSON every so many steps."""

    def __init__(
        self,
        log_prob: Callable[[PyTree, Any], jax.Array],
        loss: Callable[..., jax.Array],
        path: Path | None = None,
        *,
        every: int = 100,
        gram: Callable[[PyTree, PyTree, PyTree], entanglement.PairGram] | None = None,
    ):
        """Compiles nothing yet.

        Args:
          log_prob: `log_prob(params, example)`, the log-probability of one answer.
          loss: `loss(chosen_logps, rejected_logps, *args) -> [pairs]`.
          path: the file to append to; None keeps the records in memory alone.
          every: steps between two records.
          gram: `gram(params, chosen, rejected)`, the inner products of all pairs; None
            differentiates pair after pair, for any model. Models made of accumulator
            operations get them in one backward pass.
        """
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}.")
        self.records: list[dict[str, Any]] = []
        self._path, self._every = path, every

        def one_by_one(params: PyTree, *sides: PyTree) -> entanglement.PairGram:
            return entanglement.pair_gram(log_prob, params, *sides, method="scan")

        products = gram or one_by_one
        logps = jax.vmap(log_prob, in_axes=(None, 0))

        @jax.jit
        def measure(
            params: PyTree, chosen: PyTree, rejected: PyTree, *args: Any
        ) -> dict[str, Any]:
            sides = [logps(params, side) for side in (chosen, rejected)]
            pushes = entanglement.loss_coefficients(loss, *sides, *args)
            found = products(params, chosen, rejected)
            regime = entanglement.entanglement_regime(found, pushes)
            return {
                "chosen": sides[0].mean(),
                "rejected": sides[1].mean(),
                "loss": jnp.mean(loss(*sides, *args)),
                "regimes": [jnp.mean(regime == r) for r in entanglement.Regime],
                "chosen share": _quantiles(entanglement.chosen_share(found, pushes)),
                "cosine": _quantiles(entanglement.pair_cosine(found)),
            }

        self._measure = measure

    def __call__(
        self, step: int, params: PyTree, chosen: PyTree, rejected: PyTree, *args: Any
    ) -> dict[str, Any] | None:
        """Measures if the step is due, and returns the record then."""
        if step % self._every:
            return None
        found = jax.device_get(self._measure(params, chosen, rejected, *args))
        names = [regime.name.lower() for regime in entanglement.Regime]
        regimes = dict(zip(names, found.pop("regimes"), strict=True))
        record = {"step": step, **found, "regimes": regimes}
        record = {k: jax.tree.map(float, v) for k, v in record.items()}
        record["step"] = step
        self.records.append(record)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        return record


def _quantiles(values: jax.Array) -> dict[str, jax.Array]:
    return {f"{q:g}": jnp.quantile(values, q) for q in QUANTILES}
