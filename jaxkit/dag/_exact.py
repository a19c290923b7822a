"""The best of all orders, by dynamic programming over sets of nodes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core.jit import jit
from jaxkit.dag._stats import GramStats, checked_stats

__all__ = ["ExactOrder", "exact_order"]

# 2^18 sets of 18 conditional variances are 38 MB in float64.
_MOST_NODES = 18
# Nodes whose subsets are conditioned on side by side.
_INNER = 9


class ExactOrder(NamedTuple):
    """What :func:`exact_order` found.

    Attributes:
      order: the nodes, parents first, int32, shape ``[d]``.
      loss: :func:`order_loss`, the least of all orders; a scalar.
    """

    order: jax.Array
    loss: jax.Array


@jit()
def exact_order(stats: GramStats) -> ExactOrder:
    r"""Finds the order with the least loss of all.

    .. math:: f(S) = \min_{v \in S} f(S \setminus v)
        + \operatorname{Var}(x_v \mid x_{S \setminus v}), \qquad f(\emptyset) = 0

    The loss is half of :math:`f` of all nodes. The recursion goes over all :math:`2^d`
    sets, whose conditional variances come from one elimination
    each, shared between sets. For at most 18 nodes: a yardstick for searches.

    Args:
      stats: the moments, from :func:`gram_stats`; well-conditioned or float64.

    Returns:
      The order and its loss. Of equally good orders the one that puts high indices
      early wins.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit or there are more than 18 nodes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[5.0, 2.0], [2.0, 1.0]]))
      >>> print(dag.exact_order(stats).order)
      [1 0]

    References:
      Silander and Myllymaki, *A Simple Approach for Finding the Globally Optimal
      Bayesian Network Structure*, UAI 2006.
    """
    gram = checked_stats(stats).gram
    d = gram.shape[0]
    if d > _MOST_NODES:
        raise ValueError(f"`stats` must have at most {_MOST_NODES} nodes, got {d}.")
    variances = _conditional_variances(gram)
    sets = np.arange(2**d, dtype=np.int32)
    bits = np.int32(1) << np.arange(d, dtype=np.int32)
    member = jnp.asarray((sets[:, None] & bits[None, :]) != 0)
    without = jnp.asarray(sets[:, None] & ~bits[None, :])
    # What v costs when it is the last of a set to come.
    cost = jnp.take_along_axis(variances, without, axis=0)

    def relax(_: int, best: jax.Array) -> jax.Array:
        through = jnp.where(member, best[without] + cost, jnp.inf)
        return jnp.min(through, axis=1).at[0].set(0.0)

    # After k rounds the sets of k nodes are right.
    infinite = jnp.full(2**d, jnp.inf, gram.dtype).at[0].set(0.0)
    best = jax.lax.fori_loop(0, d, relax, infinite)

    def last(rest: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        through = jnp.where(member[rest], best[without[rest]] + cost[rest], jnp.inf)
        node = jnp.argmin(through).astype(jnp.int32)
        return without[rest, node], node

    full = jnp.asarray(2**d - 1, jnp.int32)
    _, order = jax.lax.scan(last, full, None, length=d, reverse=True)
    return ExactOrder(order, 0.5 * best[-1])


def _conditional_variances(gram: jax.Array) -> jax.Array:
    """Entry ``[S, v]`` is the variance of ``v`` given ``S``, as bits; shape [2^d, d]."""
    d = gram.shape[0]
    inner = min(d, _INNER)

    def of_high(high: jax.Array) -> jax.Array:
        one = gram
        for node in range(inner, d):
            taken = (high >> (node - inner)) & 1 == 1
            one = jnp.where(taken, _eliminate(one, node), one)
        table = one[None]
        for node in range(inner):
            table = jnp.concatenate([table, _eliminate(table, node)])
        return jnp.diagonal(table, axis1=-2, axis2=-1)

    highs = jnp.arange(2 ** (d - inner), dtype=jnp.int32)
    return jax.lax.map(of_high, highs).reshape(2**d, d)


def _eliminate(table: jax.Array, node: int) -> jax.Array:
    """Conditions on one more node."""
    column = table[..., :, node]
    outer = column[..., :, None] * column[..., None, :]
    return table - outer / table[..., node, node][..., None, None]
