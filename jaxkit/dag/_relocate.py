"""The factors of an order after moves, without factoring again."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkit.dag._order import factor_order, invert_lower
from jaxkit.dag._select import LATER, SWAP
from jaxkit.dag._stats import GramStats

__all__ = ["relocate"]

Factors = tuple[jax.Array, jax.Array]

# Below this size a factorization costs no more than the loop over reflections.
_FEWEST_NODES = 128


def _refactor(stats: GramStats, order: jax.Array, *_: jax.Array) -> Factors:
    lower = factor_order(stats, order)
    return lower, invert_lower(lower)


@jax.custom_batching.custom_vmap
def relocate(
    stats: GramStats,
    order: jax.Array,
    lower: jax.Array,
    inverse: jax.Array,
    starts: jax.Array,
    kinds: jax.Array,
    refresh: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Brings the factors of the old order to the new one; says if they are fresh.

    Every move is a sequence of exchanges of neighbors, and each of these a reflection of
    two rows: ``O(d)`` for each position passed, ``O(d^2)`` for all disjoint moves, where
    a factorization takes ``O(d^3)``. Rounding adds up, so now and then the caller asks
    for factors from the moments. On accelerators, in small problems and in batches these
    are faster all the same.
    """
    if order.shape[0] < _FEWEST_NODES:
        return *_refactor(stats, order), jnp.asarray(True)

    def on_cpu(*arguments: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        *rest, refresh = arguments
        return *jax.lax.cond(refresh, _refactor, _reflect, *rest), refresh

    elsewhere = lambda *arguments: (*_refactor(*arguments), jnp.asarray(True))
    arguments = (stats, order, lower, inverse, starts, kinds, refresh)
    return jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)


@relocate.def_vmap
def _relocate_batch(axis_size: int, in_batched: list, *arguments: Any) -> tuple:
    axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
    run = jax.vmap(_refactor, in_axes=tuple(axes), axis_size=axis_size)
    fresh = jnp.ones(axis_size, bool)
    return (*run(*arguments), fresh), (True, True, True)


def _reflect(
    stats: GramStats,
    order: jax.Array,
    lower: jax.Array,
    inverse: jax.Array,
    starts: jax.Array,
    kinds: jax.Array,
) -> Factors:
    del stats, order
    d = lower.shape[0]

    def exchange(k: jax.Array, state: tuple) -> tuple:
        """Exchanges positions k and k + 1; columns keep the labels they started with."""
        upper, inverse, label = state
        first, second = label[k], label[k + 1]
        rows = jax.lax.dynamic_slice_in_dim(upper, k, 2)
        others = jax.lax.dynamic_slice_in_dim(inverse, k, 2)
        x, y = rows[0, second], rows[1, second]
        length = jnp.hypot(x, y)
        turn = jnp.stack([jnp.stack([x, y]), jnp.stack([y, -x])]) / length
        # Elementwise: a product of 2 x 2 by 2 x d matrices would be a call.
        mix = lambda two: turn[:, :1] * two[:1] + turn[:, 1:] * two[1:]
        rows = mix(rows).at[1, second].set(0.0)
        upper = jax.lax.dynamic_update_slice_in_dim(upper, rows, k, 0)
        inverse = jax.lax.dynamic_update_slice_in_dim(inverse, mix(others), k, 0)
        return upper, inverse, label.at[k].set(second).at[k + 1].set(first)

    def make(end: jax.Array, state: tuple) -> tuple:
        start, kind = starts[end], kinds[end]
        length = jnp.where(start >= 0, end - start, 0)
        # Up carries the first node to the end, down carries the last to the start.
        up = jnp.where((kind == LATER) | (kind == SWAP), length, 0)
        down = jnp.where(kind == LATER, 0, length - (kind == SWAP).astype(length.dtype))
        state = jax.lax.fori_loop(0, up, lambda i, s: exchange(start + i, s), state)
        last = end - 1 - (kind == SWAP).astype(end.dtype)
        return jax.lax.fori_loop(0, down, lambda i, s: exchange(last - i, s), state)

    def one(state: tuple) -> tuple:
        end, *rest = state
        upper, inverse, label = make(end, tuple(rest))
        return end + 1, upper, inverse, label

    label = jnp.arange(d, dtype=starts.dtype)
    zero = jnp.asarray(0, starts.dtype)
    _, upper, inverse, label = jax.lax.while_loop(
        lambda state: state[0] < d, one, (zero, lower.T, inverse, label)
    )
    return upper[:, label].T, inverse[:, label]
