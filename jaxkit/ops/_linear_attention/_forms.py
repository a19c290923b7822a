"""The forms of linear attention: equal results, different cost.

All take checked :class:`Inputs`, the state before the first token and a scale that
multiplies the queries, and return the outputs in the accumulation dtype together
with the state after the last token.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxkit.ops._linear_attention._chunks import join_chunks, split_chunks
from jaxkit.ops._linear_attention._decay import bounded, from_start, scores, to_end
from jaxkit.ops._linear_attention._inputs import Inputs
from jaxkit.typing import PrecisionLike

__all__ = [
    "associative",
    "chunked",
    "heads_first",
    "next_state",
    "parallel",
    "quadratic",
    "read_chunk",
    "recurrent",
    "token",
]

Result: TypeAlias = tuple[jax.Array, jax.Array]


def read_chunk(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    state: jax.Array,
    precision: PrecisionLike,
) -> jax.Array:
    """Outputs of a chunk ``[..., H, C, V]`` given the state before it."""
    inside = jnp.matmul(
        scores(query, key, log_decay, precision), value, precision=precision
    )
    if log_decay is not None:
        query = query * from_start(log_decay).astype(query.dtype)
    return jnp.matmul(query, state, precision=precision) + inside


def write_chunk(
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    """What a chunk adds to the state, shape ``[..., H, K, V]``."""
    if log_decay is not None:
        key = key * to_end(log_decay).astype(key.dtype)
    return jnp.einsum("...ck,...cv->...kv", key.conj(), value, precision=precision)


def chunk_decay(log_decay: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Factor of the state over a chunk, shape ``[..., H, 1 or K, 1]``."""
    return jnp.exp(jnp.sum(bounded(log_decay), axis=-2)).astype(dtype)[..., None]


def next_state(
    state: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    """The state after a chunk."""
    if log_decay is not None:
        state = chunk_decay(log_decay, state.dtype) * state
    return state + write_chunk(key, value, log_decay, precision)


def chunked(
    x: Inputs, state: jax.Array, scale: jax.Array, size: int, precision: PrecisionLike
) -> Result:
    """Scans over chunks; inside a chunk, matrix products."""

    @jax.checkpoint
    def step(state: jax.Array, chunk: tuple) -> Result:
        query, key, value, decay = heads_first(chunk, x.dtype)
        out = read_chunk(query * scale, key, value, decay, state, precision)
        state = next_state(state, key, value, decay, precision)
        return state, jnp.swapaxes(out, -2, -3)

    chunks = tuple(split_chunks(a, size, leading=True) for a in x[:4])
    state, out = jax.lax.scan(step, state, chunks)
    return join_chunks(out, x.query.shape[-3], leading=True), state


def parallel(
    x: Inputs, state: jax.Array, scale: jax.Array, size: int, precision: PrecisionLike
) -> Result:
    """All chunks at once; only the states before them need a scan."""
    chunks = tuple(split_chunks(a, size, leading=False) for a in x[:4])
    query, key, value, decay = heads_first(chunks, x.dtype)
    updates = write_chunk(key, value, decay, precision)
    factors = None if decay is None else chunk_decay(decay, x.dtype)
    before, last = _exclusive_scan(updates, factors, state)
    out = read_chunk(query * scale, key, value, decay, before, precision)
    out = join_chunks(jnp.swapaxes(out, -2, -3), x.query.shape[-3], leading=False)
    return out, last


def recurrent(
    x: Inputs, state: jax.Array, scale: jax.Array, precision: PrecisionLike
) -> Result:
    """One token after the other, all sequences of the batch in each step."""

    def step(state: jax.Array, row: tuple) -> Result:
        *rest, decay = row
        query, key, value = (a.astype(x.dtype) for a in rest)
        state, out = token(state, query * scale, key, value, decay, precision)
        return state, out

    rows = tuple(None if a is None else jnp.moveaxis(a, -3, 0) for a in x[:4])
    state, out = jax.lax.scan(step, state, rows)
    return jnp.moveaxis(out, 0, -3), state


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
    query, key, value = (a.astype(x.dtype) for a in x[:3])
    decay = x.log_decay
    updates = key.conj()[..., :, None] * value[..., None, :]
    factors = None if decay is None else jnp.exp(decay).astype(x.dtype)[..., None]
    states = _inclusive_scan(updates, factors, state)
    out = jnp.einsum("...k,...kv->...v", query * scale, states, precision=precision)
    return out, states[..., -1, :, :, :]


def quadratic(
    x: Inputs, state: jax.Array, scale: jax.Array, precision: PrecisionLike
) -> Result:
    """Masked products of all pairs of tokens, then one product with the values."""
    query, key, value, decay = heads_first(x[:4], x.dtype)
    query = query * scale
    attention = _pairs(query, key, decay, precision)
    out = jnp.matmul(attention, value, precision=precision)
    if decay is not None:
        query = query * from_start(decay).astype(query.dtype)
    out = out + jnp.matmul(query, state, precision=precision)
    state = next_state(state, key, value, decay, precision)
    return jnp.swapaxes(out, -2, -3), state


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


def heads_first(chunk: tuple, dtype: jnp.dtype) -> tuple:
    """Upcasts a chunk and puts heads before positions, as batched products want."""
    query, key, value, decay = chunk
    heads = lambda a: jnp.swapaxes(a, -2, -3)
    decay = None if decay is None else heads(decay)
    return (*(heads(a).astype(dtype) for a in (query, key, value)), decay)


def _exclusive_scan(
    updates: jax.Array, factors: jax.Array | None, state: jax.Array
) -> Result:
    states = _inclusive_scan(updates, factors, state)
    before = jnp.concatenate([state[..., None, :, :, :], states[..., :-1, :, :, :]], -4)
    return before, states[..., -1, :, :, :]


def _inclusive_scan(
    updates: jax.Array, factors: jax.Array | None, state: jax.Array
) -> jax.Array:
    if factors is None:
        return state[..., None, :, :, :] + jnp.cumsum(updates, axis=-4)

    def combine(first: Result, second: Result) -> Result:
        return first[0] * second[0], second[0] * first[1] + second[1]

    decays, sums = jax.lax.associative_scan(
        combine, (factors, updates), axis=updates.ndim - 4
    )
    return decays * state[..., None, :, :, :] + sums
