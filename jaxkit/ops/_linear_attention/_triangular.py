"""Inverses of unit triangular matrices from batched products alone.

A triangular solve goes through LAPACK one small matrix at a time on CPU, which took
longer than all the rest of the delta rule.
"""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["unit_lower_inverse"]

_LEAF = 16
_HIGHEST = jax.lax.Precision.HIGHEST


def unit_lower_inverse(matrix: jax.Array) -> jax.Array:
    """Inverts ``I + L``, ``L`` the strictly lower part of ``[..., C, C]``.

    Blocks double in size by ``[[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1,
    D^-1]]``. Powers of ``L``, which can cancel, are never formed.
    """
    size = matrix.shape[-1]
    leaf = min(_LEAF, 1 << (size - 1).bit_length())
    padded = leaf << (-(-size // leaf) - 1).bit_length()
    widths = [(0, 0)] * (matrix.ndim - 2) + [(0, padded - size)] * 2
    matrix = jnp.pad(matrix, widths)
    inverse = _invert_leaves(_blocks(matrix, leaf, below=False))
    while inverse.shape[-1] < padded:
        left, right = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = _blocks(matrix, inverse.shape[-1], below=True)
        corner = -_product(_product(right, below), left)
        top = jnp.concatenate([left, jnp.zeros_like(left)], -1)
        bottom = jnp.concatenate([corner, right], -1)
        inverse = jnp.concatenate([top, bottom], -2)
    return inverse[..., 0, :size, :size]


def _invert_leaves(blocks: jax.Array) -> jax.Array:
    # The same doubling, by masks within a block instead of by slices.
    size = blocks.shape[-1]
    row, column = np.indices((size, size))
    inverse = jnp.broadcast_to(jnp.eye(size, dtype=blocks.dtype), blocks.shape)
    span = 1
    while span < size:
        pair = (row // span % 2 == 1) & (column // span == row // span - 1)
        below = jnp.where(pair, blocks, 0)
        if span > 1:
            below = _product(_product(inverse, below), inverse)
        inverse = inverse - below
        span *= 2
    return inverse


def _blocks(matrix: jax.Array, size: int, *, below: bool) -> jax.Array:
    """Stacks the diagonal blocks, or those below the diagonal of each pair."""
    starts = range(0, matrix.shape[-1], 2 * size if below else size)
    shift = size if below else 0
    return jnp.stack(
        [
            matrix[..., start + shift : start + shift + size, start : start + size]
            for start in starts
        ],
        axis=-3,
    )


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=_HIGHEST)
