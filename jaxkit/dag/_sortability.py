"""Whether a benchmark gives its answer away by the scale of its variables."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.ops import cholesky_solve
from jaxkit.typing import ArrayLike

__all__ = ["ScaleReport", "check_scale", "r2_sortability", "var_sortability"]


class ScaleReport(NamedTuple):
    """What the variances alone say, without knowing the graph.

    Attributes:
      ratio: the largest variance over the smallest, a scalar.
      is_standardized: whether they differ by no more than one percent, bool.
    """

    ratio: jax.Array
    is_standardized: jax.Array


@jit()
def check_scale(stats: GramStats) -> ScaleReport:
    r"""Tells whether the data look standardized.

    .. math:: \max_j G_{jj} / \min_j G_{jj}

    Least squares with equal weights finds the direction of an edge from variances. On
    standardized data it has nothing to go by and is confidently wrong.

    Args:
      stats: the moments, from :func:`gram_stats`.

    Returns:
      The ratio of the extreme variances, and whether it is at most 1.01.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if its shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 0.5], [0.5, 1.0]]))
      >>> print(dag.check_scale(stats).is_standardized)
      True

    References:
      Reisach, Seiler and Weichwald, *Beware of the Simulated DAG!*, NeurIPS 2021.
    """
    variances = jnp.diagonal(checked_stats(stats).gram)
    ratio = jnp.max(variances) / jnp.min(variances)
    return ScaleReport(ratio, ratio <= 1.01)


@jit()
def var_sortability(stats: GramStats, adjacency: ArrayLike) -> jax.Array:
    r"""The share of directed walks along which the variance grows.

    .. math:: v = \frac{\sum_k \sum_{(i, j) \in E^k} [s_i < s_j] + \frac12 [s_i = s_j]}
        {\sum_k |E^k|}

    with :math:`E^k` the pairs that a walk of ``k`` edges joins and :math:`s` the
    variances. At 1, sorting by variance gives a topological order; 1/2 is chance.

    Args:
      stats: the moments, from :func:`gram_stats`.
      adjacency: weights or marks of the true graph, acyclic, shape ``[d, d]``.

    Returns:
      A scalar between 0 and 1; NaN for a graph without edges.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.var_sortability(stats, jnp.array([[0, 1], [0, 0]])))
      1.0

    References:
      Reisach, Seiler and Weichwald, *Beware of the Simulated DAG!*, NeurIPS 2021,
      section 3.
    """
    return _sortability(stats, adjacency, lambda gram: jnp.diagonal(gram))


@jit()
def r2_sortability(stats: GramStats, adjacency: ArrayLike) -> jax.Array:
    r"""The share of directed walks along which the explained variance grows.

    .. math:: R_j^2 = 1 - \frac{1}{(\mathrm{corr}^{-1})_{jj}}

    takes the place of the variances of :func:`var_sortability`. It does not change when
    columns are rescaled, so standardizing does not remove it.

    Args:
      stats: the moments, from :func:`gram_stats`.
      adjacency: weights or marks of the true graph, acyclic, shape ``[d, d]``.

    Returns:
      A scalar between 0 and 1; NaN for a graph without edges.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0, 1.0], [2.0, 5.0, 2.0], [1.0, 2.0, 2.0]])
      >>> edges = jnp.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]])
      >>> print(dag.r2_sortability(dag.covariance_stats(gram), edges))
      0.0

    References:
      Reisach et al., *A Scale-Invariant Sorting Criterion to Find a Causal Order in
      Additive Noise Models*, NeurIPS 2023, section 3.
    """
    return _sortability(stats, adjacency, _explained)


def _explained(gram: jax.Array) -> jax.Array:
    root = jnp.sqrt(jnp.diagonal(gram))
    correlation = gram / (root[:, None] * root[None, :])
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return 1.0 - 1.0 / jnp.diagonal(cholesky_solve(correlation, eye))


def _sortability(
    stats: GramStats, adjacency: ArrayLike, scores: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    gram = checked_stats(stats).gram
    edges = as_edges("adjacency", adjacency)
    if edges.shape != gram.shape:
        raise ValueError(
            f"`adjacency` must have shape {gram.shape}, got {edges.shape}."
        )
    s = scores(gram)
    gap = s[None, :] - s[:, None]
    # Equal up to rounding is a tie: exact comparison would toss a coin.
    tie = jnp.abs(gap) <= 8.0 * jnp.finfo(s.dtype).eps * jnp.max(jnp.abs(s))
    credit = jnp.where(tie, 0.5, (gap > 0).astype(gram.dtype))
    table = edges.astype(jnp.float32)

    def longer(state: tuple) -> tuple:
        walks, step, good, total = state
        good = good + jnp.sum(jnp.where(walks, credit, 0.0))
        total = total + jnp.sum(walks, dtype=jnp.int32)
        walks = jnp.matmul(walks.astype(jnp.float32), table) > 0
        return walks, step + 1, good, total

    # Walks on a cycle never end; d steps are enough for all others.
    going = lambda state: jnp.any(state[0]) & (state[1] < edges.shape[0])
    zero = jnp.asarray(0, jnp.int32)
    start = (edges, zero, jnp.zeros((), gram.dtype), zero)
    _, _, good, total = jax.lax.while_loop(going, longer, start)
    return good / total.astype(gram.dtype)
