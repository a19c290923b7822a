"""Log-probabilities of tokens under a large vocabulary, with gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import optional_module, pull_back, within
from jaxkit import ops

__all__ = ["cases"]

SIZES = {
    "small": ((2048, 512, 32768),),
    "full": ((2048, 512, 32768), (2048, 512, 131072), (2048, 512, 50257)),
    "accelerator": ((16384, 2048, 131072),),
}
"""Tokens, features, vocabulary."""
GOALS = (
    Goal("log_softmax", 1 / 1.3),
    Goal("tiles", temp_bytes=64 * 2**20),
    Goal("TRL tiles", 1 / 0.7),
    Goal("torch, tiles as in TRL", 1 / 0.7),
)
SKIP_GOALS = (Goal("half the tokens masked", 1 / 0.6),)


def cases(preset: str, max_length: int | None) -> list[Case]:
    """Values and gradients of all tokens, and of a batch half of which is masked."""
    dtype = jnp.bfloat16 if preset == "accelerator" else jnp.float32
    kinds: dict[str, tuple[Callable, tuple[Goal, ...]]] = {
        "": (_programs, GOALS),
        ", half masked": (_masked_programs, SKIP_GOALS),
    }
    all_cases = []
    for tokens, features, vocabulary in SIZES[preset]:
        (count,) = within((tokens,), max_length)
        # A trial run gets a small vocabulary, too.
        vocabulary = min(vocabulary, 16 * count)
        for kind, (programs, goals) in kinds.items():
            build = functools.partial(programs, count, features, vocabulary, dtype)
            title = f"N={count}, D={features}, V={vocabulary}{kind}"
            met = goals if count == tokens and dtype == jnp.float32 else ()
            tolerance = 0.05 if dtype == jnp.bfloat16 else 1e-3
            all_cases.append(Case(title, build, met, dtype, tolerance))
    return all_cases


def _programs(tokens: int, features: int, vocabulary: int, dtype: Any) -> list[Program]:
    hidden, weight, labels, cotangent = _inputs(tokens, features, vocabulary, dtype)
    tiles, whole = _work(hidden, weight, 4), _work(hidden, weight, 3)
    linear = ops.linear_selected_log_probs
    forms: dict[str, tuple[Callable, Work]] = {
        "tiles": (linear, tiles),
        "wide tiles": (
            functools.partial(linear, chunk_size=min(vocabulary, 4096)),
            tiles,
        ),
        "one tile": (functools.partial(linear, chunk_size=vocabulary), whole),
        "gather - logsumexp": (_by_logits, whole),
        "log_softmax": (_by_log_softmax, whole),
    }
    programs = [
        jax_program(
            name,
            pull_back(functools.partial(_with_labels, form, labels)),
            cotangent,
            hidden,
            weight,
            work=work,
        )
        for name, (form, work) in forms.items()
    ]
    if optional_module("torch") and jax.default_backend() == "cpu":
        peers = optional_module("benchmarks._torch_log_probs")
        made = peers.log_prob_programs(hidden, weight, labels, cotangent)
        for name, run in made.items():
            work = whole if name == "torch log_softmax" else tiles
            programs.append(Program(name, run, work, peers.peak_bytes(run)))
    return programs


def _masked_programs(
    tokens: int, features: int, vocabulary: int, dtype: Any
) -> list[Program]:
    hidden, weight, labels, cotangent = _inputs(tokens, features, vocabulary, dtype)
    order = jax.random.permutation(jax.random.key(1), tokens)
    half = _work(hidden[: tokens // 2], weight, 4)
    return [
        jax_program(
            name,
            pull_back(
                functools.partial(
                    _with_labels,
                    functools.partial(
                        ops.linear_selected_log_probs, skip_masked=skip, where=where
                    ),
                    labels,
                )
            ),
            cotangent,
            hidden,
            weight,
            work=half,
            same=where is not None,
        )
        for name, skip, where in (
            ("half the tokens skipped", True, order < tokens // 2),
            ("half the tokens masked", False, order < tokens // 2),
            ("no token masked", False, None),
        )
    ]


def _inputs(
    tokens: int, features: int, vocabulary: int, dtype: Any
) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (tokens, features), dtype)
    weight = jax.random.normal(keys[1], (vocabulary, features), dtype)
    labels = jax.random.randint(keys[2], (tokens,), 0, vocabulary)
    cotangent = jax.random.normal(keys[3], (tokens,))
    return hidden, weight * features**-0.5, labels, cotangent


def _work(hidden: jax.Array, weight: jax.Array, products: int) -> Work:
    """Three products, or four where the logits are computed twice.

    The inputs are read and their gradients written.
    """
    flops = 2.0 * products * hidden.size * weight.shape[0]
    return Work(flops, 2.0 * (hidden.nbytes + weight.nbytes))


def _with_labels(
    function: Callable, labels: jax.Array, hidden: jax.Array, weight: jax.Array
) -> jax.Array:
    return function(hidden, weight, labels)


def _by_logits(hidden: jax.Array, weight: jax.Array, labels: jax.Array) -> jax.Array:
    logits = (hidden @ weight.T).astype(jnp.float32)
    target = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return target - jax.nn.logsumexp(logits, axis=1)


def _by_log_softmax(
    hidden: jax.Array, weight: jax.Array, labels: jax.Array
) -> jax.Array:
    log_probs = jax.nn.log_softmax((hidden @ weight.T).astype(jnp.float32))
    return jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
