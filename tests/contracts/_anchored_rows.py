"""Contract rows of the losses of jaxkit.preference that weigh the answers unequally."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import preference
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([True, False, True])


def _row(
    function: Callable[..., jax.Array],
    *,
    references: bool = True,
    lengths: int = 0,
    **options: Any,
) -> Contract:
    """The row of a loss of pairs."""
    count = 4 if references else 2
    ones, whole = np.ones(3, np.float32), np.ones(3, np.int32)
    bad = [
        Bad(
            error=ValueError,
            match=r"`chosen_logps` and `rejected_logps`.*\(3,\) and \(2,\)",
            args=(ones, ones[:2], *(ones,) * (count - 2), *(whole,) * lengths),
        ),
        Bad(
            error=TypeError,
            match=r"`rejected_logps`.*int32",
            args=(ones, whole, *(ones,) * (count - 2), *(whole,) * lengths),
        ),
        Bad(
            error=TypeError,
            match=r"`where` must have dtype bool, got float32",
            kwargs={"where": jnp.ones(3)},
        ),
    ]
    if lengths:
        bad.append(
            Bad(
                error=ValueError,
                match=r"_lengths` must broadcast to shape \(3,\), got \(2,\)",
                args=(*(ones,) * count, *(whole,) * (lengths - 1), whole[:2]),
            )
        )
    return Contract(
        function=function,
        samples=lambda rng: (
            *(-rng.uniform(1.0, 9.0, (count, 3))),
            *rng.integers(1, 9, (lengths, 3)),
        ),
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        extremes=tuple(
            (
                np.full(2, chosen),
                np.full(2, rejected),
                *(np.full(2, -50.0),) * (count - 2),
                *(np.array([0, 7]),) * lengths,
            )
            for chosen, rejected in ((0.0, -1e4), (-1e4, 0.0), (-50.0, -50.0))
        ),
        bad=tuple(bad),
        **options,
    )


ROWS = {
    "dpo_shift_loss": _row(
        preference.dpo_shift_loss,
        hyper={"beta": (0.1, 0.5), "rejected_weight": (0.75, 1.0)},
    ),
    "dpop_loss": _row(
        preference.dpop_loss, hyper={"beta": (0.1, 0.5), "weight": (5.0, 0.0)}
    ),
    "paired_kto_loss": _row(
        preference.paired_kto_loss,
        hyper={
            "kl_estimate": (0.5, 0.0),
            "beta": (0.1, 0.5),
            "desirable_weight": (1.0, 2.0),
            "undesirable_weight": (1.5, 1.0),
        },
    ),
    "r_dpo_loss": _row(
        preference.r_dpo_loss,
        lengths=2,
        hyper={"beta": (0.1, 0.5), "length_weight": (0.02, 0.2)},
    ),
    "rpo_loss": _row(
        preference.rpo_loss,
        lengths=1,
        hyper={"beta": (0.1, 0.5), "weight": (1.0, 0.0)},
    ),
    "rrhf_loss": _row(
        preference.rrhf_loss,
        references=False,
        lengths=2,
        hyper={"weight": (1.0, 0.0)},
    ),
    "slic_loss": _row(
        preference.slic_loss,
        references=False,
        hyper={"margin": (1.0, 0.0), "weight": (0.1, 0.0)},
    ),
}

ELSEWHERE: dict[str, str] = {}
