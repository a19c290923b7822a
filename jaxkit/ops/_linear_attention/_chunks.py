"""Splits sequences into chunks and joins them again."""

from typing import overload

import jax
import jax.numpy as jnp

__all__ = ["join_chunks", "split_chunks"]


@overload
def split_chunks(array: None, size: int, *, leading: bool) -> None: ...
@overload
def split_chunks(array: jax.Array, size: int, *, leading: bool) -> jax.Array: ...
def split_chunks(
    array: jax.Array | None, size: int, *, leading: bool
) -> jax.Array | None:
    """Turns ``[..., T, H, F]`` into ``[..., n, C, H, F]``, zeros at the end.

    With ``leading`` the axis of chunks comes first, as a scan wants it. Zero keys,
    values and log-decays leave the state as it is.
    """
    if array is None:
        return None
    *lead, length, heads, features = array.shape
    missing = -length % size
    if missing:
        array = jnp.pad(array, [(0, 0)] * len(lead) + [(0, missing), (0, 0), (0, 0)])
    out = array.reshape(*lead, (length + missing) // size, size, heads, features)
    return jnp.moveaxis(out, len(lead), 0) if leading else out


def join_chunks(array: jax.Array, length: int, *, leading: bool) -> jax.Array:
    """Inverts :func:`split_chunks` and drops the padding."""
    if leading:
        array = jnp.moveaxis(array, 0, -4)
    *lead, count, size, heads, features = array.shape
    return array.reshape(*lead, count * size, heads, features)[..., :length, :, :]
