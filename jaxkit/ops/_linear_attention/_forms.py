"""The forms of linear attention: equal results, different cost.

All take checked :class:`Inputs`, the state before the first token and a scale that
multiplies the queries, and return the outputs in the accumulation dtype together
with the state after the last token.
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxkit.ops._linear_attention._chunks import Layout
from jaxkit.ops._linear_attention._decay import bounded, from_start, scores, to_end
from jaxkit.ops._linear_attention._inputs import Inputs
from jaxkit.typing import PrecisionLike

__all__ = [
    "Chunks",
    "Result",
    "associative",
    "chunked",
    "grouped_layout",
    "next_state",
    "parallel",
    "quadratic",
    "read_chunks",
    "recurrent",
    "token",
    "upcast",
]

Result: TypeAlias = tuple[jax.Array, jax.Array]
Chunks: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]

_BATCHED_PRODUCTS = 8
_UNROLLED = 8


def attend_chunks(chunks: Chunks, state: jax.Array, precision: PrecisionLike) -> Result:
    """Outputs ``[..., n, C, V]`` of consecutive chunks and the state after them."""
    _, key, value, decay = chunks
    added = write_chunks(key, value, decay, precision)
    factors = None if decay is None else chunk_decay(decay, added.dtype)
    before, state = _exclusive_scan(added, factors, state)
    return read_chunks(chunks, before, precision), state


def read_chunks(
    chunks: Chunks, before: jax.Array, precision: PrecisionLike
) -> jax.Array:
    """Outputs of chunks given the state before each of them."""
    query, key, value, decay = chunks
    inside = jnp.matmul(
        scores(query, key, decay, precision), value, precision=precision
    )
    if decay is not None:
        query = query * from_start(decay).astype(query.dtype)
    return jnp.matmul(query, before, precision=precision) + inside


def write_chunks(
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    """What each chunk adds to the state, shape ``[..., K, V]``."""
    if log_decay is not None:
        key = key * to_end(log_decay).astype(key.dtype)
    return jnp.einsum("...ck,...cv->...kv", key.conj(), value, precision=precision)


def chunk_decay(log_decay: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Factor of the state over each chunk, shape ``[..., 1 or K, 1]``."""
    return jnp.exp(jnp.sum(bounded(log_decay), axis=-2)).astype(dtype)[..., None]


def next_state(
    state: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    """The state after one chunk."""
    if log_decay is not None:
        state = chunk_decay(log_decay, state.dtype) * state
    return state + write_chunks(key, value, log_decay, precision)


def chunked(
    x: Inputs, state: jax.Array, scale: jax.Array, size: int, precision: PrecisionLike
) -> Result:
    """Scans over groups of chunks and recomputes each group in reverse."""
    layout = grouped_layout(x.key, size)

    @jax.checkpoint
    def step(state: jax.Array, row: tuple) -> Result:
        query, *rest = upcast(jax.tree.map(layout.chunks, row), x.dtype)
        out, state = attend_chunks((query * scale, *rest), state, precision)
        return state, layout.unchunk(out)

    state, out = jax.lax.scan(step, state, jax.tree.map(layout.split, x[:4]))
    return layout.join(out), state


def grouped_layout(key: jax.Array, size: int) -> Layout:
    """As many chunks in each step of a scan as keep the cores busy."""
    *lead, _, heads, _ = key.shape
    sequences = max(1, math.prod(lead) * heads)
    return Layout.of(key, size, max(1, _BATCHED_PRODUCTS // sequences))


def parallel(
    x: Inputs, state: jax.Array, scale: jax.Array, size: int, precision: PrecisionLike
) -> Result:
    """All chunks at once; only the states before them need a scan."""
    layout = Layout.of(x.key, size)
    row = jax.tree.map(lambda a: layout.split(a)[0], x[:4])
    query, *rest = upcast(jax.tree.map(layout.chunks, row), x.dtype)
    out, state = attend_chunks((query * scale, *rest), state, precision)
    return layout.join(layout.unchunk(out)[None]), state


def recurrent(x: Inputs, state: jax.Array, scale: jax.Array) -> Result:
    """One token after the other, all sequences of the batch in each step."""

    # Heads and batch come last: features are often too few to fill a vector.
    @jax.checkpoint
    def step(state: jax.Array, row: tuple) -> Result:
        query, key, value, decay = upcast(row, x.dtype)
        if decay is not None:
            state = jnp.exp(decay).astype(x.dtype)[:, None] * state
        state = state + key.conj()[:, None] * value[None]
        return state, jnp.sum((query * scale)[:, None] * state, axis=0)

    rows = jax.tree.map(lambda a: jnp.moveaxis(a, (-3, -1), (0, 1)), x[:4])
    state = jnp.moveaxis(state, (-2, -1), (0, 1))
    state, out = jax.lax.scan(step, state, rows)
    return jnp.moveaxis(out, (0, 1), (-3, -1)), jnp.moveaxis(state, (0, 1), (-2, -1))


def token(
    state: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> Result:
    """One step of the recurrence on ``[..., H, K]`` arrays: state and output."""
    if log_decay is not None:
        state = jnp.exp(log_decay).astype(state.dtype)[..., None] * state
    state = state + key.conj()[..., :, None] * value[..., None, :]
    return state, jnp.einsum("...k,...kv->...v", query, state, precision=precision)


def associative(
    x: Inputs, state: jax.Array, scale: jax.Array, precision: PrecisionLike
) -> Result:
    """An associative scan over tokens; keeps a state for each of them."""
    query, key, value, decay = upcast(x[:4], x.dtype)
    updates = key.conj()[..., :, None] * value[..., None, :]
    factors = None if decay is None else jnp.exp(decay).astype(x.dtype)[..., None]
    states = _inclusive_scan(updates, factors, state, axis=-4)
    out = jnp.einsum("...k,...kv->...v", query * scale, states, precision=precision)
    return out, states[..., -1, :, :, :]


def quadratic(
    x: Inputs, state: jax.Array, scale: jax.Array, precision: PrecisionLike
) -> Result:
    """Masked products of all pairs of tokens, then one product with the values."""
    layout = Layout.of(x.key, x.key.shape[-3])
    row = jax.tree.map(lambda a: layout.chunks(layout.split(a)[0])[..., 0, :, :], x[:4])
    query, key, value, decay = upcast(row, x.dtype)
    query = query * scale
    out = jnp.matmul(_pairs(query, key, decay, precision), value, precision=precision)
    if decay is not None:
        query = query * from_start(decay).astype(query.dtype)
    out = out + jnp.matmul(query, state, precision=precision)
    state = next_state(state, key, value, decay, precision)
    return layout.join(layout.unchunk(out[..., None, :, :])[None]), state


def _pairs(
    query: jax.Array,
    key: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    if log_decay is None or log_decay.shape[-1] == 1:
        return scores(query, key, log_decay, precision)

    @jax.checkpoint
    def add_channel(total: jax.Array, channel: Result) -> tuple[jax.Array, None]:
        query, key, decay = (a[..., None] for a in channel)
        return total + scores(query, key, decay, precision), None

    channels = tuple(jnp.moveaxis(a, -1, 0) for a in (query, key, log_decay))
    start = jnp.zeros_like(query @ jnp.swapaxes(key, -1, -2))
    return jax.lax.scan(add_channel, start, channels)[0]


def upcast(chunks: tuple, dtype: jnp.dtype) -> tuple:
    """Casts query, key and value to the accumulation dtype."""
    query, key, value, decay = chunks
    return (*(a.astype(dtype) for a in (query, key, value)), decay)


def _exclusive_scan(
    added: jax.Array, factors: jax.Array | None, state: jax.Array
) -> Result:
    """States before each of ``n`` consecutive updates ``[..., n, K, V]``, and last."""
    count = added.shape[-3]
    if count <= _UNROLLED:
        states = [state]
        for i in range(count):
            old = states[-1]
            if factors is not None:
                old = factors[..., i, :, :] * old
            states.append(old + added[..., i, :, :])
        return jnp.stack(states[:-1], axis=-3), states[-1]
    states = _inclusive_scan(added, factors, state, axis=-3)
    before = jnp.concatenate([state[..., None, :, :], states[..., :-1, :, :]], -3)
    return before, states[..., -1, :, :]


def _inclusive_scan(
    added: jax.Array, factors: jax.Array | None, state: jax.Array, *, axis: int
) -> jax.Array:
    state = jnp.expand_dims(state, axis)
    if factors is None:
        return state + jnp.cumsum(added, axis=axis)

    def combine(first: Result, second: Result) -> Result:
        return first[0] * second[0], second[0] * first[1] + second[1]

    decays, sums = jax.lax.associative_scan(
        combine, (factors, added), axis=added.ndim + axis
    )
    return decays * state + sums
