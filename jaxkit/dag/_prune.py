"""From an order to a graph: which of the edges it allows to keep."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._grow_shrink import find_parents
from jaxkit.dag._order import as_order, edge_tstats, ols_given_order
from jaxkit.dag._regression import parent_limit, refit
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.typing import ArrayLike

__all__ = ["prune"]

RULES = ("ttest", "threshold", "bic")


@jit(static_argnames=("rule", "max_parents"))
def prune(
    stats: GramStats,
    order: ArrayLike,
    *,
    rule: str = "ttest",
    threshold: ArrayLike = 0.3,
    significance: ArrayLike = 0.01,
    penalty: ArrayLike = 2.0,
    max_parents: int | None = None,
) -> jax.Array:
    r"""Keeps the edges of an order that the data support, and fits them again.

    The rules, for the edge from ``i`` to ``j``:

    * ``"ttest"``: :math:`|t_{ij}| > \Phi^{-1}\bigl(1 - \alpha / (d (d-1))\bigr)`, two
      sides and all :math:`d (d-1) / 2` edges taken into account; independent of scale;
    * ``"threshold"``: :math:`|W_{ij}| \ge \tau`, the habit of the literature, which
      depends on the scale of the columns;
    * ``"bic"``: what :func:`grow_shrink` selects among the nodes before ``j``;
      independent of scale.

    Args:
      stats: the moments, from :func:`gram_stats`; of finitely many samples, but for
        ``"threshold"``.
      order: the nodes, parents first, integers, shape ``[d]``.
      rule: how to decide; static.
      threshold: :math:`\tau` of ``"threshold"``.
      significance: :math:`\alpha` of ``"ttest"``, the chance of any wrong edge.
      penalty: :math:`\lambda` of ``"bic"``, see :func:`bic_score`.
      max_parents: a bound of the number of parents, at least 1;
        static. ``"bic"`` keeps to it, the others give NaN where it is exceeded.

    Returns:
      The weights of :func:`ols_given_parents` on the edges kept, shape ``[d, d]``.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit, ``rule`` is unknown or ``max_parents`` less
        than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0, -2.0], [2.0, 5.0, -5.0], [-2.0, -5.0, 6.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=100)
      >>> print(dag.prune(stats, jnp.array([0, 1, 2])).round(4) + 0.0)
      [[ 0.  2.  0.]
       [ 0.  0. -1.]
       [ 0.  0.  0.]]

    References:
      Buehlmann, Peters and Ernest, *CAM: Causal Additive Models, High-Dimensional
      Order Search and Penalized Regression*, Annals of Statistics 2014, section 5.
    """
    stats = checked_stats(stats)
    checks.one_of("rule", rule, RULES)
    checks.within("significance", significance, low=0.0, high=1.0)
    d = stats.gram.shape[0]
    order = as_order(order, d)
    dtype = stats.gram.dtype
    if rule == "threshold":
        (threshold,) = checks.floating(threshold=threshold)
        weights = ols_given_order(stats, order)
        kept = (jnp.abs(weights) >= threshold.astype(dtype)) & (weights != 0)
    elif rule == "ttest":
        (significance,) = checks.floating(significance=significance)
        limit = -ndtri(significance.astype(dtype) / (d * (d - 1)))
        kept = jnp.abs(edge_tstats(stats, order)) > limit
    else:
        (penalty,) = checks.floating(penalty=penalty)
        kept = _parents_before(stats, order, penalty.astype(dtype), max_parents)
    return refit(stats, kept, parent_limit(max_parents, d))


def _parents_before(
    stats: GramStats, order: jax.Array, penalty: jax.Array, max_parents: int | None
) -> jax.Array:
    d = order.shape[0]
    position = jnp.argsort(order)
    limit = parent_limit(max_parents, d)

    def parents(node: jax.Array) -> jax.Array:
        before = position < position[node]
        return find_parents(stats, node, before, penalty, limit).parents

    return jax.lax.map(parents, jnp.arange(d, dtype=jnp.int32)).T
