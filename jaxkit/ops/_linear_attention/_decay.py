"""Decay factors between positions of a chunk, without a positive exponent.

Log-decays have shape ``[..., C, 1]`` (one per head) or ``[..., C, K]`` (one per key
channel).  Every exponent below is a sum of log-decays, never a difference of two
such sums: nothing overflows and nothing cancels, also next to a decay of -1e4.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit.typing import PrecisionLike

__all__ = ["FORGET", "combine_resets", "from_start", "scores", "to_end"]

FORGET = -1e4
"""A log-decay whose exponential is exactly 0 in float32 and in float64."""

_HIGHEST = jax.lax.Precision.HIGHEST


def combine_resets(
    log_decay: jax.Array | None, resets: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """Turns the first token of each later segment into one that forgets all."""
    real = jnp.finfo(dtype).dtype
    resets = resets[..., None, None]
    if log_decay is None:
        return jnp.where(resets, jnp.asarray(FORGET, real), jnp.asarray(0.0, real))
    return jnp.where(resets, jnp.asarray(FORGET, real), log_decay)


def bounded(log_decay: jax.Array) -> jax.Array:
    """Replaces -inf and what underflows anyway by a number that sums safely."""
    return jnp.maximum(log_decay, jnp.asarray(FORGET, log_decay.dtype))


def from_start(log_decay: jax.Array) -> jax.Array:
    """Factor from before the chunk to each position, shape of ``log_decay``."""
    return jnp.exp(jnp.cumsum(bounded(log_decay), axis=-2))


def to_end(log_decay: jax.Array) -> jax.Array:
    """Factor from each position to the end of the chunk, shape of ``log_decay``."""
    later = bounded(log_decay)[..., 1:, :]
    later = jnp.concatenate(
        [
            later,
            jnp.zeros_like(
                later, shape=(*log_decay.shape[:-2], 1, log_decay.shape[-1])
            ),
        ],
        -2,
    )
    return jnp.exp(jax.lax.cumsum(later, axis=later.ndim - 2, reverse=True))


def scores(
    query: jax.Array,
    key: jax.Array,
    log_decay: jax.Array | None,
    precision: PrecisionLike,
) -> jax.Array:
    r"""Causal products ``sum_k q_tk conj(k_sk) exp(g_{s+1,k} + ... + g_{t,k})``.

    ``query`` and ``key`` have shape ``[..., C, K]``; the result ``[..., C, C]`` is 0
    above the diagonal.
    """
    if log_decay is not None and log_decay.shape[-1] > 1:
        return _channel_scores(query, key, bounded(log_decay), precision)
    products = _products(query, key, precision)
    if log_decay is None:
        return jnp.tril(products)
    return products * _pair_decay(bounded(log_decay)[..., 0]).astype(products.dtype)


def _products(query: jax.Array, key: jax.Array, precision: PrecisionLike) -> jax.Array:
    return jnp.einsum("...tk,...sk->...ts", query, key.conj(), precision=precision)


def _pair_decay(log_decay: jax.Array) -> jax.Array:
    # A sum over r of [s < r <= t] g_r as a product of matrices.
    causal = np.tri(log_decay.shape[-1], dtype=bool)
    rows = jnp.where(causal, log_decay[..., None, :], 0)
    later = jnp.asarray(np.tri(log_decay.shape[-1], k=-1), log_decay.dtype)
    exponent = jnp.einsum("...tr,rs->...ts", rows, later, precision=_HIGHEST)
    return jnp.exp(jnp.where(causal, exponent, -jnp.inf))


def _channel_scores(
    query: jax.Array, key: jax.Array, log_decay: jax.Array, precision: PrecisionLike
) -> jax.Array:
    # Blocks double in size: at each level the queries of the right half of a block
    # meet the keys of its left half by way of the boundary between the two.
    size = query.shape[-2]
    padding = (1 << (size - 1).bit_length()) - size
    pad = [(0, 0)] * (query.ndim - 2) + [(0, padding), (0, 0)]
    query, key, before = (
        jnp.pad(x, pad)[..., :, None, :] for x in (query, key, log_decay)
    )
    after = jnp.zeros_like(before)
    out = _products(query, key, precision)
    while out.shape[-1] < size:
        (left, right), (_, q), (k, _) = _halves(out), _halves(query), _halves(key)
        (b_left, b_right), (a_left, a_right) = _halves(before), _halves(after)
        cross = _products(
            q * jnp.exp(b_right).astype(q.dtype),
            k * jnp.exp(a_left).astype(k.dtype),
            precision,
        )
        top = jnp.concatenate([left, jnp.zeros_like(left)], -1)
        bottom = jnp.concatenate([cross, right], -1)
        out = jnp.concatenate([top, bottom], -2)
        after = jnp.concatenate([a_left + b_right[..., -1:, :], a_right], -2)
        before = jnp.concatenate([b_left, b_right + b_left[..., -1:, :]], -2)
        query, key = (
            x.reshape(*x.shape[:-3], -1, 2 * x.shape[-2], x.shape[-1])
            for x in (query, key)
        )
    return out[..., 0, :size, :size]


def _halves(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    return blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
