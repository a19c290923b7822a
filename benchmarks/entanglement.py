"""The Gram of preference pairs: what each way costs beside the gradient of a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import optional_module, within
from jaxkit import entanglement, preference
from jaxkit.nn import CausalTransformer

__all__ = ["cases"]

HEADS = 4
SIZES = {
    # vocabulary, features, layers, length, pairs
    "small": ((512, 128, 2, 64, 16), (1024, 256, 2, 64, 8)),
    "full": (
        (60, 32, 2, 16, 32),
        (512, 128, 2, 64, 16),
        (512, 128, 2, 256, 4),
        (1024, 256, 2, 64, 8),
        (1024, 384, 2, 128, 4),
    ),
    "accelerator": ((16384, 768, 6, 256, 32),),
}
GOALS = (
    Goal("gram and gradient", at_most=1.2),
    Goal("split halves", at_most=1.1),
    Goal("jvp along an update", at_most=0.75),
)


def cases(preset: str, max_length: int | None) -> list[Case]:
    """One case for every size; the first program is the gradient of the batch."""
    return [
        Case(
            f"V={size[0]}, D={size[1]}, T={length}, B={size[4]}",
            functools.partial(_programs, (*size[:3], length, size[4])),
            goals=GOALS,
            tolerance=1e-2,
        )
        for size in SIZES[preset]
        for length in within((size[3],), max_length)
    ]


def _programs(size: tuple[int, int, int, int, int]) -> list[Program]:
    vocabulary, features, layers, length, pairs = size
    model = CausalTransformer(
        vocabulary,
        features,
        layers,
        HEADS,
        max_length=length,
        rngs=nnx.Rngs(0),
    )
    graphdef, variables = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(variables)
    tokens = jax.random.randint(
        jax.random.key(0), (2 * pairs, length), 0, vocabulary, jnp.int32
    )
    reference = jax.random.normal(jax.random.key(1), (pairs,))
    work = _work(size)
    programs = [
        jax_program(name, function, params, tokens, reference, work=work, same=same)
        for name, function, same in _ways(graphdef)
    ]
    torch_peers = optional_module("torch") and optional_module("benchmarks._torch_gram")
    if torch_peers and jax.default_backend() == "cpu":
        peers = torch_peers.programs(params, tokens, reference, HEADS)
        _check_gram(programs, peers["torch.func"]())
        _check_gram(programs, peers["torch loop"]())
        programs += [
            Program(name, run, work, same=False) for name, run in peers.items()
        ]
    return programs


def _check_gram(programs: list[Program], theirs: Any) -> None:
    """The Gram has no place in the first program, so it is compared here."""
    (ours,) = (p.run() for p in programs if p.name == "gram")
    ours, theirs = np.stack(ours), np.asarray(theirs.detach())
    error = np.abs(ours - theirs).max() / np.abs(ours).max()
    if not error < 1e-3:
        raise RuntimeError(f"the Gram of PyTorch differs from ours by {error:.1e}.")


def _work(size: tuple[int, int, int, int, int]) -> Work:
    """Flops of a gradient: three products for each of the forward pass."""
    vocabulary, features, layers, length, pairs = size
    weights = layers * 12 * features**2 + vocabulary * features
    per_token = 2.0 * weights + layers * 4.0 * length * features
    return Work(3.0 * per_token * 2 * pairs * length, 8.0 * weights)


def _loss(chosen: jax.Array, rejected: jax.Array, reference: jax.Array) -> jax.Array:
    return preference.dpo_loss(chosen, rejected, chosen + reference, rejected)


def _ways(graphdef: Any) -> list[tuple[str, Callable, bool]]:
    def log_prob(params: Any, accumulator: Any, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.log_probs(tokens, accumulator=accumulator)

    ordinary = lambda params, tokens: log_prob(params, None, tokens)
    of_one = lambda params, row: ordinary(params, row[None])[0]

    def gradient(params: Any, tokens: jax.Array, reference: jax.Array) -> Any:
        mean = lambda p: jnp.mean(_loss(*jnp.split(ordinary(p, tokens), 2), reference))
        return jax.value_and_grad(mean)(params)

    def both(params: Any, tokens: jax.Array, reference: jax.Array) -> Any:
        step = entanglement.accumulated_value_and_grad(log_prob, _loss)
        return step(params, tokens, reference)

    def halves(params: Any, tokens: jax.Array, reference: jax.Array) -> Any:
        step = entanglement.split_value_and_grad(ordinary, _loss)
        return step(params, *jnp.split(tokens, 2), reference)

    def along(params: Any, tokens: jax.Array, reference: jax.Array) -> Any:
        update = jax.tree.map(lambda x: 1e-3 * x, params)
        return entanglement.update_changes(ordinary, params, update, tokens)

    def gram(params: Any, tokens: jax.Array, reference: jax.Array) -> Any:
        return entanglement.accumulated_pair_gram(log_prob, params, tokens)

    def by_pair_gram(method: str) -> Callable:
        return lambda params, tokens, reference: entanglement.pair_gram(
            of_one, params, *jnp.split(tokens, 2), method=method
        )

    return [
        ("gradient", gradient, True),
        ("gram and gradient", both, False),
        ("split halves", halves, False),
        ("jvp along an update", along, False),
        ("gram", gram, False),
        ("pair_gram vmap", by_pair_gram("vmap"), False),
        ("pair_gram scan", by_pair_gram("scan"), False),
    ]
