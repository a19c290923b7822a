"""Search over orders by moving one node after the other to its best place.

For any score that is a sum over nodes of a cost of the set of nodes before each.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.dag._initial_orders import sample_order
from jaxkit.dag._order import as_order, is_permutation
from jaxkit.typing import ArrayLike, Key

__all__ = ["Sweep", "insertion_costs", "starting_orders", "sweep_search"]


class Sweep(NamedTuple):
    """Where a search by sweeps ended."""

    order: jax.Array
    cost: jax.Array
    num_sweeps: jax.Array
    converged: jax.Array


def insertion_costs(
    without: jax.Array, with_node: jax.Array, own: jax.Array
) -> jax.Array:
    """The total cost with a node at each of ``d`` places among the others.

    `without` and `with_node` are the costs of the others, shape ``[d - 1]``, when the
    node stands behind and before each; `own` is its cost at each place, shape ``[d]``.
    """
    zero = jnp.zeros_like(own[:1])
    before = jnp.concatenate([zero, jnp.cumsum(without)])
    behind = jnp.cumsum(with_node[::-1])[::-1]
    return before + jnp.concatenate([behind, zero]) + own


def sweep_search(
    order: jax.Array,
    costs: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    max_sweeps: int,
    floor: float,
) -> Sweep:
    """Moves every node to its best place, again and again, until none moves.

    `costs(rest, node)` gives the total cost with the node at each place among the rest.
    A move must gain more than the rounding of a cost of the size of `floor` or more.
    """
    d = order.shape[0]
    places = jnp.arange(d, dtype=jnp.int32)

    def visit(node: jax.Array, state: tuple) -> tuple:
        order, _, moved = state
        node = jnp.asarray(node, jnp.int32)
        place = jnp.argmax(order == node).astype(jnp.int32)
        rest = order[places[:-1] + (places[:-1] >= place).astype(jnp.int32)]
        table = costs(rest, node)
        best = jnp.argmin(table).astype(jnp.int32)
        eps = jnp.finfo(table.dtype).eps
        least = 32.0 * eps * (jnp.abs(table[place]) + floor)
        better = table[best] < table[place] - least
        target = jnp.where(better, best, place)
        shifted = rest[
            jnp.clip(places - (places > target).astype(jnp.int32), max=d - 2)
        ]
        new = jnp.where(places == target, node, shifted)
        return new, table[target], moved | better

    def sweep(state: tuple) -> tuple:
        order, cost, _, count = state
        first = (order, cost, jnp.asarray(False))
        order, cost, moved = jax.lax.fori_loop(0, d, visit, first)
        return order, cost, moved, count + 1

    going = lambda state: state[2] & (state[3] < max_sweeps)
    dtype = jax.eval_shape(costs, order[:-1], order[0]).dtype
    start = (
        order,
        jnp.asarray(jnp.nan, dtype),
        jnp.asarray(True),
        jnp.asarray(0, jnp.int32),
    )
    found, cost, moved, count = jax.lax.while_loop(going, sweep, start)
    sound = is_permutation(order)
    cost = jnp.where(sound, cost, jnp.nan)
    return Sweep(found, cost, count, ~moved & jnp.isfinite(cost))


def starting_orders(
    key: Key, num_nodes: int, num_restarts: int, order: ArrayLike | None
) -> jax.Array:
    """Random orders, the first of them replaced by one that is given."""
    checks.typed_key(key)
    checks.at_least("num_restarts", num_restarts, 1)
    keys = jax.random.split(key, num_restarts)
    orders = jax.vmap(lambda key: sample_order(key, num_nodes))(keys)
    if order is None:
        return orders
    return orders.at[0].set(as_order(order, num_nodes))
