"""Decay factors between positions of a chunk, without a positive exponent.

Log-decays have shape ``[..., C, 1]`` (one per head) or ``[..., C, K]`` (one per key
channel).  Every exponent below is a sum of log-decays, never a difference of two
such sums: nothing overflows and nothing cancels, also next to a decay of -1e4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit.typing import PrecisionLike

__all__ = ["FORGET", "combine_resets", "from_start", "scores", "to_end"]

FORGET = -1e4
"""A log-decay whose exponential is exactly 0 in float32 and in float64."""

_LEAF = 64
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
    """``D_ts = exp(g_{s+1} + ... + g_t)`` for ``s <= t``, else 0; ``[..., C, C]``."""
    size = log_decay.shape[-1]
    leaf = min(size, _LEAF)
    blocks = _pad(log_decay[..., None], _doublings(size, leaf) * leaf)
    blocks = blocks.reshape(*log_decay.shape[:-1], -1, leaf)
    causal = np.tri(leaf, dtype=bool)
    # The sum over r of [s < r <= t] g_r, as a product of matrices.
    rows = jnp.where(causal, blocks[..., None, :], 0)
    later = jnp.asarray(np.tri(leaf, k=-1), log_decay.dtype)
    exponent = jnp.einsum("...tr,rs->...ts", rows, later, precision=_HIGHEST)
    out = jnp.exp(jnp.where(causal, exponent, -jnp.inf))
    if leaf == size:
        return out[..., 0, :, :]
    before, after = jnp.cumsum(blocks, axis=-1), exponent[..., -1, :]

    def cross(before: jax.Array, after: jax.Array) -> jax.Array:
        return jnp.exp(before + jnp.swapaxes(after, -1, -2))

    return _double(out, before[..., None], after[..., None], cross)[..., :size, :size]


def _channel_scores(
    query: jax.Array, key: jax.Array, log_decay: jax.Array, precision: PrecisionLike
) -> jax.Array:
    size = query.shape[-2]
    padded = _doublings(size, 1)
    query, key, before = (
        _pad(x, padded)[..., :, None, :] for x in (query, key, log_decay)
    )

    def cross(before: jax.Array, after: jax.Array) -> jax.Array:
        shape = (*query.shape[:-3], -1, before.shape[-2], query.shape[-1])
        right = query.reshape(shape)[..., 1::2, :, :]
        left = key.reshape(shape)[..., 0::2, :, :]
        return _products(
            right * jnp.exp(before).astype(right.dtype),
            left * jnp.exp(after).astype(left.dtype),
            precision,
        )

    out = _products(query, key, precision)
    out = _double(out, before, jnp.zeros_like(before), cross)
    return out[..., :size, :size]


def _double(
    out: jax.Array,
    before: jax.Array,
    after: jax.Array,
    cross: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Joins diagonal blocks ``[..., N, h, h]`` pairwise until one is left.

    The right half of each pair meets its left half by way of the boundary between
    them: ``before`` sums the log-decays from the start of a block to each of its
    positions, ``after`` those from each position to the end, ``[..., N, h, F]``.
    """
    while out.shape[-3] > 1:
        (left, right), (b_left, b_right) = _halves(out), _halves(before)
        a_left, a_right = _halves(after)
        top = jnp.concatenate([left, jnp.zeros_like(left)], -1)
        bottom = jnp.concatenate([cross(b_right, a_left), right], -1)
        out = jnp.concatenate([top, bottom], -2)
        after = jnp.concatenate([a_left + b_right[..., -1:, :], a_right], -2)
        before = jnp.concatenate([b_left, b_right + b_left[..., -1:, :]], -2)
    return out[..., 0, :, :]


def _doublings(size: int, leaf: int) -> int:
    """The least power of two of leaves that hold ``size`` positions."""
    return 1 << (-(-size // leaf) - 1).bit_length()


def _pad(array: jax.Array, size: int) -> jax.Array:
    widths = [(0, 0)] * (array.ndim - 2) + [(0, size - array.shape[-2]), (0, 0)]
    return jnp.pad(array, widths)


def _halves(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    return blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
