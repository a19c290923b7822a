"""The solvers of the mesa layer and the forms of the delta rule."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Program, Work, jax_program
from benchmarks._peers import optional_module, pull_back, within
from jaxkit import ops

__all__ = ["cases"]

CHUNK = 64
CG_STEPS = 16
SIZES = {
    "small": ((1024, 2, 16), (1024, 2, 64)),
    "full": ((1024, 2, 16), (4096, 2, 16), (1024, 2, 64), (4096, 2, 64)),
    "accelerator": ((4096, 16, 64), (16384, 16, 64)),
}
"""Tokens, heads, and features of keys and of values."""


def cases(preset: str, max_length: int | None) -> list[Case]:
    """One case for every job, direction and size."""
    sizes = {
        (within((length,), max_length)[0], heads, features): None
        for length, heads, features in SIZES[preset]
    }
    return [
        Case(
            f"{job}, {'forward+backward' if backward else 'forward'}, "
            f"T={size[0]}, H={size[1]}, K=V={size[2]}",
            functools.partial(build, *size, backward),
            tolerance=1e-2,
        )
        for job, build in (("delta rule", _delta_rule), ("mesa", _mesa))
        for backward in (False, True)
        for size in sizes
    ]


def _inputs(length: int, heads: int, features: int) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (
        jax.random.normal(k, (length, heads, features)) for k in keys[:3]
    )
    key = key / jnp.linalg.norm(key, axis=-1, keepdims=True)
    return query, key, value, jax.random.uniform(keys[3], (length, heads))


def _programs(
    functions: dict[str, tuple[Callable, float]],
    args: tuple[jax.Array, ...],
    backward: bool,
) -> list[Program]:
    value = args[2]
    cotangent = jax.random.normal(jax.random.key(1), value.shape)
    tokens = value.shape[0] * value.shape[1]
    moved = float(sum(a.nbytes for a in args) + value.nbytes)
    programs = []
    for name, (function, flops) in functions.items():
        run = pull_back(function) if backward else function
        given = (cotangent, *args) if backward else args
        # Twice the flops again, a cotangent and the gradients in the backward pass.
        counted = (
            Work(3 * flops * tokens, 2 * moved)
            if backward
            else Work(flops * tokens, moved)
        )
        programs.append(jax_program(name, run, *given, work=counted))
    return programs


def _delta_rule(
    length: int, heads: int, features: int, backward: bool
) -> list[Program]:
    args = _inputs(length, heads, features)
    # In a chunk: two products of pairs, one triangular solve, one product with the
    # values; the state is read twice and written once.
    chunked = 7 * CHUNK * features + 6 * features**2
    functions = {
        "chunked": (functools.partial(_ours, "chunked"), chunked),
        "recurrent": (functools.partial(_ours, "recurrent"), 6 * features**2),
    }
    jla = optional_module("jla.ops")
    if jla is not None:
        functions["jla"] = functools.partial(_jla, jla), chunked
    return _programs(functions, args, backward)


def _ours(implementation: str, *args: jax.Array) -> jax.Array:
    return ops.delta_rule(*args, implementation=implementation, chunk_size=CHUNK)


def _jla(jla: object, *args: jax.Array) -> jax.Array:
    query, key, value, beta = (a[None] for a in args)
    return jla.linear_attention("deltanet", query, key, value, beta=beta, scale=1.0)[0][
        0
    ]


def _mesa(length: int, heads: int, features: int, backward: bool) -> list[Program]:
    args = _inputs(length, heads, features)[:3]
    square = features**2
    read = 4 * CHUNK * features + 4 * square
    # rls: four products of a matrix with a vector and one update of rank one.
    # solve: an update of rank one, a factorization, two triangular solves.
    # cg: a step is one linear attention with the keys as values.
    functions = {
        "rls": (functools.partial(_solver, "rls"), 10 * square + read),
        "solve": (
            functools.partial(_solver, "solve"),
            features**3 / 3 + 4 * square + read,
        ),
        f"cg, {CG_STEPS} steps": (
            functools.partial(_solver, "cg"),
            CG_STEPS * read + read,
        ),
    }
    if not backward:
        # Its derivative never ends on two cores with jax 0.10: several batched
        # LAPACK calls at once wait for threads that the others hold.
        functions["one solve of all"] = _textbook, 2 * features**3 / 3 + 10 * square
    return _programs(functions, args, backward)


def _solver(solver: str, *args: jax.Array) -> jax.Array:
    return ops.mesa_attention(
        *args, ridge=1.0, solver=solver, num_steps=CG_STEPS, chunk_size=CHUNK
    )


def _textbook(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Every Gram matrix at once and a general solver, in a few lines of JAX."""
    gram = jnp.cumsum(key[..., :, None] * key[..., None, :], axis=0)
    memory = jnp.cumsum(key[..., :, None] * value[..., None, :], axis=0)
    ridge = jnp.broadcast_to(jnp.eye(key.shape[-1]), gram.shape)
    solved = jnp.linalg.solve(gram + ridge, query[..., None])
    return jnp.einsum("...kv,...k->...v", memory, solved[..., 0])
