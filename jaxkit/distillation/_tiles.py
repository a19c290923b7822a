"""Kernel matrices computed tile by tile."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit._core import checks

__all__ = ["tiled"]


def tiled(
    kernel: Callable[[jax.Array, jax.Array], Any],
    x: jax.Array,
    y: jax.Array,
    tile_size: int | None,
) -> Any:
    """Evaluates a kernel with at most `tile_size` squared pairs in memory at a time.

    What `kernel` returns is a tree of arrays of shape ``[rows, columns]``. The gradient
    computes each tile again.
    """
    if tile_size is None:
        return kernel(x, y)
    checks.at_least("tile_size", tile_size, 1)
    body = jax.checkpoint(kernel)
    rows, columns = _split(x, tile_size), _split(y, tile_size)
    tiles = jax.lax.map(
        lambda row: jax.lax.map(lambda column: body(row, column), columns), rows
    )
    return jax.tree.map(lambda t: _join(t)[: len(x), : len(y)], tiles)


def _split(points: jax.Array, tile_size: int) -> jax.Array:
    """Cuts into equal tiles, the last one filled up with zeros."""
    count = -(-len(points) // tile_size)
    missing = count * tile_size - len(points)
    padded = jnp.pad(points, [(0, missing)] + [(0, 0)] * (points.ndim - 1))
    return padded.reshape(count, tile_size, *points.shape[1:])


def _join(tiles: jax.Array) -> jax.Array:
    """Turns ``[rows, columns, tile, tile]`` into a matrix."""
    rows, columns, height, width = tiles.shape
    return tiles.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
