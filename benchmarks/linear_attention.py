"""Causal linear attention: its forms, softmax attention, PyTorch, another package."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import attempt, optional_module, pull_back, within
from jaxkit import ops

__all__ = ["cases"]

FEATURES = 64
CHUNK = 64
LENGTHS = {
    "small": (1024, 4096, 16384),
    "full": (1024, 4096, 16384, 65536),
    "accelerator": (8192, 32768, 131072),
}
HEADS = {"small": (1,), "full": (1, 8), "accelerator": (16,)}
MAX_PAIRS = 2**28
"""Most pairs of tokens, over all heads, that a quadratic program may keep."""
MAX_STATES = 2**16
"""Most states that the reverse mode of a recurrence may keep."""
GOALS = {
    (1, 4096, False): (Goal("quadratic", 40.0),),
    (1, 16384, False): (Goal("quadratic", 100.0),),
    (1, 4096, True): (Goal("quadratic", 50.0),),
    (1, 16384, True): (Goal("chunked", temp_bytes=16 * 2**20),),
}


def cases(preset: str, max_length: int | None) -> list[Case]:
    """One case for every number of heads, decay, direction and length."""
    fast = preset == "accelerator"
    dtype = jnp.bfloat16 if fast else jnp.float32
    return [
        Case(
            title=f"{'forward+backward' if backward else 'forward'}, T={length}, "
            f"H={heads}{', decay' if decay else ''}{', bfloat16' if fast else ''}",
            build=functools.partial(_programs, heads, length, decay, backward, dtype),
            goals=() if decay or fast else GOALS.get((heads, length, backward), ()),
            dtype=dtype,
            tolerance=0.1 if fast else 1e-3,
        )
        for backward in (False, True)
        for heads in HEADS[preset]
        for decay in (False, True)
        for length in within(LENGTHS[preset], max_length)
    ]


def work(flops_per_token: float, args: tuple, backward: bool) -> Work:
    """Flops of a form, and the bytes of its inputs, outputs and their gradients.

    Every matrix product of the forward pass has two in the backward pass.
    """
    query, _, value = args[:3]
    flops = flops_per_token * query.shape[0] * query.shape[1]
    moved = sum(a.nbytes for a in args) + value.nbytes
    if backward:
        # The cotangent comes in, a gradient of each input goes out.
        return Work(3 * flops, 2 * moved)
    return Work(flops, moved)


def _programs(
    heads: int, length: int, decay: bool, backward: bool, dtype: jnp.dtype
) -> list[Program]:
    args = _inputs(heads, length, decay, dtype)
    cotangent = jax.random.normal(jax.random.key(1), args[2].shape, dtype)
    forms = {
        "chunked": 4 * CHUNK * FEATURES + 4 * FEATURES**2,
        "parallel": 4 * CHUNK * FEATURES + 4 * FEATURES**2,
        "recurrent": 4 * FEATURES**2,
        "quadratic": 4 * length * FEATURES,
    }
    # The reverse mode and the decays of all pairs are more matrices to keep.
    pairs = heads * length**2 * (1 + backward + 3 * decay)
    if jax.default_backend() != "cpu":
        # "auto" means another form there: ours is the one users get.
        forms = {k: forms[k] for k in ("parallel", "chunked", "quadratic")}
    if pairs > MAX_PAIRS:
        del forms["quadratic"]
    if backward and heads * length > MAX_STATES:
        forms.pop("recurrent", None)
    functions: dict[str, tuple[Callable, float]] = {
        name: (functools.partial(_ours, name), flops) for name, flops in forms.items()
    }
    if pairs <= MAX_PAIRS and not decay:
        functions["softmax"] = _softmax, 4 * length * FEATURES
    jla = optional_module("jla.ops")
    if jla is not None:
        functions["jla"] = functools.partial(_jla, jla), forms["chunked"]
    programs = []
    for name, (function, flops) in functions.items():
        compile_it = functools.partial(
            jax_program,
            name,
            pull_back(function) if backward else function,
            *((cotangent, *args) if backward else args),
            work=work(flops, args, backward),
            same=name != "softmax",
        )
        programs += [compile_it()] if name in forms else attempt(name, compile_it)
    torch_peers = optional_module("torch") and optional_module("benchmarks._torch")
    if torch_peers and dtype == jnp.float32 and jax.default_backend() == "cpu":
        counted = work(forms["chunked"], args, backward)
        for name, run in torch_peers.linear_attention(
            args, cotangent if backward else None, CHUNK
        ).items():
            programs.append(Program(name, run, counted))
    return programs


def _inputs(
    heads: int, length: int, decay: bool, dtype: jnp.dtype
) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (
        jax.random.normal(k, (length, heads, FEATURES), dtype) for k in keys[:3]
    )
    query, key = query * FEATURES**-0.5, key * FEATURES**-0.5
    if not decay:
        return query, key, value
    log_decay = -0.1 * jax.random.uniform(keys[3], (length, heads), jnp.float32)
    return query, key, value, log_decay


def _ours(
    implementation: str,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None = None,
) -> jax.Array:
    return ops.linear_attention(
        query,
        key,
        value,
        log_decay=log_decay,
        implementation=implementation,
        chunk_size=CHUNK,
    )


def _softmax(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    fused = jax.default_backend() == "gpu" and query.dtype == jnp.bfloat16
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=True, implementation="cudnn" if fused else None
    )


def _jla(
    jla: object,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None = None,
) -> jax.Array:
    """Its kind without a decay is the one with decays of 0."""
    gate = jnp.zeros(query.shape[:2]) if log_decay is None else log_decay
    batch = (a[None] for a in (query, key, value))
    out, _ = jla.linear_attention("simple_gla", *batch, g=gate[None], scale=1.0)
    return out[0].astype(value.dtype)
