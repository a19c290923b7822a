"""Best order score search: sparse graphs by the Bayesian information criterion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._grow_shrink import find_parents
from jaxkit.dag._regression import parent_limit, refit
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.dag._sweep import (
    Sweep,
    insertion_costs,
    starting_orders,
    sweep_search,
)
from jaxkit.typing import ArrayLike, Key

__all__ = ["BossResult", "boss_search"]


class BossResult(NamedTuple):
    """What :func:`boss_search` found.

    Attributes:
      order: the best order, int32, shape ``[d]``.
      adjacency: the graph, one member of its Markov class, bool, shape ``[d, d]``.
      weights: :func:`ols_given_parents` on it, shape ``[d, d]``.
      score: :func:`bic_score` summed over nodes; higher is better.
      num_sweeps: how many sweeps over all nodes the best search made, int32.
      converged: whether the best search ended because no node gains by moving, bool.
      scores: the score at the end of every search, shape ``[num_restarts]``.
    """

    order: jax.Array
    adjacency: jax.Array
    weights: jax.Array
    score: jax.Array
    num_sweeps: jax.Array
    converged: jax.Array
    scores: jax.Array


def _climb(
    stats: GramStats,
    order: jax.Array,
    allowed: jax.Array,
    penalty: jax.Array,
    limit: int,
    max_sweeps: int,
) -> Sweep:
    d = order.shape[0]
    places = jnp.arange(d, dtype=jnp.int32)

    def cost(node: jax.Array, before: jax.Array) -> jax.Array:
        candidates = before & allowed[:, node]
        return -find_parents(stats, node, candidates, penalty, limit).score

    def costs(rest: jax.Array, node: jax.Array) -> jax.Array:
        # Row q marks the first q of the rest.
        rank = jnp.zeros(d, jnp.int32).at[rest].set(places[:-1]).at[node].set(d)
        prefix = rank[None, :] < places[:, None]
        both = prefix[:-1] | (places == node)[None, :]
        nodes = jnp.concatenate([rest, rest, jnp.full(d, node)])
        sets = jnp.concatenate([prefix[:-1], both, prefix])
        table = jax.vmap(cost)(nodes, sets)
        return insertion_costs(*jnp.split(table, [d - 1, 2 * d - 2]))

    floor = 1.0
    return sweep_search(order, costs, max_sweeps=max_sweeps, floor=floor)


@jit(
    static_argnames=("max_parents", "num_restarts", "max_sweeps"),
)
def boss_search(
    key: Key,
    stats: GramStats,
    *,
    order: ArrayLike | None = None,
    penalty: ArrayLike = 2.0,
    max_parents: int | None = 12,
    num_restarts: int = 8,
    max_sweeps: int = 100,
    allowed: ArrayLike | None = None,
) -> BossResult:
    r"""Searches orders for the sparse graph with the best information criterion.

    .. math:: \max_{\text{orders}} \sum_j \max_{P \subseteq \mathrm{before}(j)}
        \Bigl[ -\frac n2 \bigl(1 + \log \hat\sigma_{j|P}^2\bigr)
        - \lambda\, (|P| + 1) \log n \Bigr]

    with the inner maximum by :func:`grow_shrink`. One node after the other is moved to
    its best place: two selections for each other node, with and without it, and one for
    itself at each place give the score of all ``d`` places. It ends when no node gains
    by moving. Several random starts run side by side, as single ones get stuck.

    The result does not depend on the scale of the columns. With linear Gaussian data it
    means a Markov class, see :func:`dag_to_cpdag`. It needs the digits of float64 where
    variances differ by a factor of 1e5 or more.

    Args:
      key: a typed random key, for the starts.
      stats: the moments, from :func:`gram_stats`, of finitely many samples.
      order: where the first search starts, integers, shape ``[d]``; None means at
        random like the others. One that is no permutation scores NaN.
      penalty: :math:`\lambda` of :func:`bic_score`.
      max_parents: the most parents of a node; static. None means ``d - 1``.
      num_restarts: how many searches, at least 1; static.
      max_sweeps: the most sweeps over all nodes, at least 1; static.
      allowed: entry ``[i, j]`` not zero where ``i`` may be a parent of ``j``, shape
        ``[d, d]``; None means everywhere.

    Returns:
      The best of the searches; ties go to the first.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if a shape does not fit or a number is too small.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0, -2.0], [2.0, 5.0, -5.0], [-2.0, -5.0, 6.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=100)
      >>> found = dag.boss_search(jax.random.key(0), stats)
      >>> print(dag.dag_to_cpdag(found.adjacency))
      [[ 0 -1  0]
       [ 0  0 -1]
       [ 0  0  0]]

    References:
      Andrews et al., *Fast Scalable and Accurate Discovery of DAGs Using the Best Order
      Score Search and Grow-Shrink Trees*, NeurIPS 2023.
    """
    stats = checked_stats(stats)
    d = stats.gram.shape[0]
    checks.at_least("max_sweeps", max_sweeps, 1)
    limit = parent_limit(max_parents, d)
    (penalty,) = checks.floating(penalty=penalty)
    penalty = penalty.astype(stats.gram.dtype)
    table = ~jnp.eye(d, dtype=bool)
    if allowed is not None:
        table = table & as_edges("allowed", allowed)
    starts = starting_orders(key, d, num_restarts, order)
    climb = lambda start: _climb(stats, start, table, penalty, limit, max_sweeps)
    ends = jax.vmap(climb)(starts)
    best = jnp.argmin(jnp.where(jnp.isnan(ends.cost), jnp.inf, ends.cost))
    order = ends.order[best]
    position = jnp.argsort(order)

    def parents(node: jax.Array) -> jax.Array:
        candidates = (position < position[node]) & table[:, node]
        return find_parents(stats, node, candidates, penalty, limit).parents

    adjacency = jax.lax.map(parents, jnp.arange(d, dtype=jnp.int32)).T
    return BossResult(
        order=order,
        adjacency=adjacency,
        weights=refit(stats, adjacency, limit),
        score=-ends.cost[best],
        num_sweeps=ends.num_sweeps[best],
        converged=ends.converged[best],
        scores=-ends.cost,
    )
