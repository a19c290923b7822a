"""Splits sequences into the steps of a scan, and each step into chunks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Layout"]


class Layout(NamedTuple):
    """How ``num_steps * num_chunks * size`` tokens cover a sequence.

    A scan over ``num_steps`` treats ``num_chunks`` chunks of ``size`` tokens at once.
    """

    length: int
    heads: int
    num_steps: int
    num_chunks: int
    size: int

    @classmethod
    def of(cls, array: jax.Array, size: int, num_chunks: int | None = None) -> "Layout":
        """Covers ``[..., T, H, F]``; ``num_chunks`` None means a single step."""
        length, heads = array.shape[-3:-1]
        size = min(size, length)
        total = -(-length // size)
        num_chunks = total if num_chunks is None else min(num_chunks, total)
        return cls(length, heads, -(-total // num_chunks), num_chunks, size)

    def split(self, array: jax.Array) -> jax.Array:
        """Turns ``[..., T, H, F]`` into ``[num_steps, ..., tokens, H, F]``.

        The end is filled with zeros: zero keys, values and log-decays leave the
        state as it is. An only head loses its axis, around which XLA would copy.
        """
        *lead, length, heads, features = array.shape
        tokens = self.num_chunks * self.size
        inner = (features,) if self.heads == 1 else (heads, features)
        array = array.reshape(*lead, length, *inner)
        missing = self.num_steps * tokens - length
        if missing:
            widths = [(0, 0)] * array.ndim
            widths[len(lead)] = (0, missing)
            array = jnp.pad(array, widths)
        array = array.reshape(*lead, self.num_steps, tokens, *inner)
        return jnp.moveaxis(array, len(lead), 0)

    def join(self, array: jax.Array) -> jax.Array:
        """Inverts :meth:`split`."""
        inner = array.ndim - (2 if self.heads == 1 else 3)
        array = jnp.moveaxis(array, 0, inner - 1)
        lead, tail = array.shape[: inner - 1], array.shape[inner + 1 :]
        array = array.reshape(*lead, -1, *tail)
        array = jax.lax.slice_in_dim(array, 0, self.length, axis=inner - 1)
        return array.reshape(*lead, self.length, self.heads, tail[-1])

    def chunks(self, array: jax.Array) -> jax.Array:
        """Turns one step into ``[..., H, num_chunks, size, F]``."""
        if self.heads == 1:
            array = array[..., None, :, :]
        else:
            array = jnp.swapaxes(array, -2, -3)
        shape = (*array.shape[:-2], self.num_chunks, self.size, array.shape[-1])
        return array.reshape(shape)

    def unchunk(self, array: jax.Array) -> jax.Array:
        """Inverts :meth:`chunks`."""
        *lead, _, chunks, size, features = array.shape
        if self.heads == 1:
            return array.reshape(*lead, chunks * size, features)
        array = array.reshape(*array.shape[:-3], chunks * size, features)
        return jnp.swapaxes(array, -2, -3)
