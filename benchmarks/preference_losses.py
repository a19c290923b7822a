"""What it costs to call a loss: from Python, by its name, and in eager PyTorch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Program, Work, temp_bytes
from benchmarks._peers import optional_module, within
from jaxkit import preference
from jaxkit.preference import PairLogps, PreferenceConfig

__all__ = ["cases"]

BETA = 0.1
"""The default of the loss."""
SIZES = {
    "small": (256, 2**20),
    "full": (256, 2**16, 2**22),
    "accelerator": (256, 2**26),
}
"""Pairs in a batch: a training step, where dispatch is all there is, and a data set."""


def cases(preset: str, max_length: int | None) -> list[Case]:
    """One case for every batch, for the value and for value and slopes."""
    return [
        Case(f"{job}, {pairs} pairs", functools.partial(build, pairs), tolerance=1e-5)
        for job, build in (("dpo", _values), ("dpo and slopes", _slopes))
        for pairs in within(SIZES[preset], max_length)
    ]


def _pair(pairs: int) -> PairLogps:
    keys = jax.random.split(jax.random.key(0), 4)
    return PairLogps(*(-50.0 * jax.random.uniform(key, (pairs,)) for key in keys))


def _formula(
    chosen: jax.Array,
    rejected: jax.Array,
    ref_chosen: jax.Array,
    ref_rejected: jax.Array,
) -> jax.Array:
    """What one would write by hand: no checks, no mask, no options."""
    margin = BETA * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -jax.nn.log_sigmoid(margin)


def _by_hand(*pair: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    total = lambda chosen, rejected: (lambda loss: (jnp.sum(loss), loss))(
        _formula(chosen, rejected, *pair[2:])
    )
    (_, loss), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
        *pair[:2]
    )
    return loss, *slopes


def _program(
    name: str, function: Callable[..., Any], *args: Any, work: Work
) -> Program:
    """Calls the function as a user does, dispatch included."""
    memory = None
    if hasattr(function, "lower"):
        memory = temp_bytes(function.lower(*args).compile())
    return Program(name, lambda: jax.block_until_ready(function(*args)), work, memory)


def _values(pairs: int) -> list[Program]:
    pair = _pair(pairs)
    # Four arrays in, one out; a subtraction counts as much as a logarithm here.
    work = Work(10.0 * pairs, 20.0 * pairs)
    config = PreferenceConfig(beta=BETA)
    # A number that is given is traced, and its check leaves the fast dispatch path.
    given = functools.partial(preference.dpo_loss, beta=BETA)
    programs = [
        _program("dpo_loss", preference.dpo_loss, *pair, work=work),
        _program("dpo_loss, beta given", given, *pair, work=work),
        _program("plain jit", jax.jit(_formula), *pair, work=work),
        _program(
            "preference_loss", preference.preference_loss, pair, config, work=work
        ),
        _program("op by op", _formula, *pair, work=work),
    ]
    return programs + _torch(pair, work, slopes=False)


def _slopes(pairs: int) -> list[Program]:
    pair = _pair(pairs)
    work = Work(20.0 * pairs, 28.0 * pairs)

    def ours(pair: PairLogps) -> tuple[jax.Array, jax.Array, jax.Array]:
        slopes = preference.loss_slopes(preference.dpo_loss, pair)
        return preference.dpo_loss(*pair), *slopes

    programs = [
        _program("loss_slopes, jit", jax.jit(ours), pair, work=work),
        _program("plain jit", jax.jit(_by_hand), *pair, work=work),
        _program("loss_slopes", ours, pair, work=work),
        _program("op by op", _by_hand, *pair, work=work),
    ]
    return programs + _torch(pair, work, slopes=True)


def _torch(pair: PairLogps, work: Work, *, slopes: bool) -> list[Program]:
    peers = optional_module("torch") and optional_module("benchmarks._torch_preference")
    if not peers or jax.default_backend() != "cpu":
        return []
    run = peers.dpo(pair, BETA, slopes=slopes)
    return [Program("torch eager", run, work)]
