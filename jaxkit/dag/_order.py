"""Least squares given an order: everything from one Cholesky factor."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.dag._stats import GramStats, checked_stats, positive_diagonal
from jaxkit.typing import ArrayLike

__all__ = [
    "edge_tstats",
    "ols_given_order",
    "order_cholesky",
    "order_loss",
    "partial_correlations",
    "residual_variances",
]


def as_order(order: ArrayLike, num_nodes: int) -> jax.Array:
    """Turns an order into int32 of shape ``[d]``."""
    order = jnp.asarray(order)
    if not jnp.issubdtype(order.dtype, jnp.integer):
        raise TypeError(f"`order` must hold integers, got {order.dtype}.")
    if order.shape != (num_nodes,):
        raise ValueError(f"`order` must have shape ({num_nodes},), got {order.shape}.")
    return order.astype(jnp.int32)


def is_permutation(order: jax.Array) -> jax.Array:
    """Whether every node occurs once."""
    return jnp.all(jnp.sort(order) == jnp.arange(order.shape[0], dtype=order.dtype))


def factor_order(stats: GramStats, order: jax.Array) -> jax.Array:
    """The lower Cholesky factor of the permuted Gram matrix."""
    if stats.factor is None:
        gram = stats.gram[order[:, None], order[None, :]]
        return jnp.linalg.cholesky(gram, symmetrize_input=False)
    upper = jnp.linalg.qr(stats.factor[:, order], mode="r")
    lower = positive_diagonal(upper).T
    # A QR decomposition never fails: where a residual is nothing but rounding, say so.
    scale = jnp.sqrt(jnp.sum(lower * lower, axis=1))
    sound = jnp.all(jnp.diagonal(lower) > 4.0 * jnp.finfo(lower.dtype).eps * scale)
    return jnp.where(sound, lower, jnp.nan)


def invert_lower(lower: jax.Array) -> jax.Array:
    """The inverse of a lower triangular matrix."""
    eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
    return jax.lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)


def weights_in_place(lower: jax.Array, inverse: jax.Array) -> jax.Array:
    """Regression weights by position: entry ``[p, m]`` is that of ``p`` for ``m``."""
    return jnp.triu(-inverse.T * jnp.diagonal(lower)[None, :], 1)


def to_nodes(matrix: jax.Array, order: jax.Array) -> jax.Array:
    """Relabels a matrix over positions as one over nodes."""
    position = jnp.argsort(order)
    return matrix[position[:, None], position[None, :]]


def _checked(
    stats: GramStats, order: ArrayLike
) -> tuple[GramStats, jax.Array, jax.Array]:
    """The moments, the order, and the factor: NaN where a node is missing."""
    stats = checked_stats(stats)
    order = as_order(order, stats.gram.shape[0])
    lower = factor_order(stats, order)
    return stats, order, jnp.where(is_permutation(order), lower, jnp.nan)


@jit()
def order_cholesky(stats: GramStats, order: ArrayLike) -> tuple[jax.Array, jax.Array]:
    r"""Factors the second moments in a given order.

    .. math:: P G P^\top = C C^\top, \qquad K = C^{-1}

    :math:`C_{mm}^2` is the variance left at position ``m`` by all earlier ones, and
    row ``m`` of :math:`I - \operatorname{diag}(C) K` holds the weights of that
    regression.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The lower triangular ``C`` and ``K``, each of shape ``[d, d]``, over positions.
      NaN if the moments are singular or the order is no permutation.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> lower, inverse = dag.order_cholesky(stats, jnp.array([0, 1]))
      >>> print(lower)
      [[1. 0.]
       [2. 1.]]

    References:
      Raskutti and Uhler, *Learning Directed Acyclic Graph Models Based on Sparsest
      Permutations*, Stat 2018, on the factor as a graph.
    """
    _, _, lower = _checked(stats, order)
    return lower, invert_lower(lower)


@jit()
def residual_variances(stats: GramStats, order: ArrayLike) -> jax.Array:
    r"""Variance of each node given all nodes before it.

    .. math:: c_m^2 = \operatorname{Var}(x_{o_m} \mid x_{o_1}, \dots, x_{o_{m-1}})

    Their product is :math:`\det G` whatever the order, their sum is not.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The variances by position, shape ``[d]``; NaN as in :func:`order_cholesky`.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.residual_variances(stats, jnp.array([0, 1])))
      [1. 1.]

    References:
      Chen, Drton and Wang, *On Causal Discovery with an Equal-Variance Assumption*,
      Biometrika 2019.
    """
    _, _, lower = _checked(stats, order)
    return jnp.diagonal(lower) ** 2


@jit()
def order_loss(stats: GramStats, order: ArrayLike) -> jax.Array:
    r"""The least-squares loss of the best weights that respect an order.

    .. math:: \min_W \tfrac{1}{2n} \|X - XW\|_F^2 = \tfrac12 \sum_m c_m^2

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The loss, a scalar; NaN as in :func:`order_cholesky`.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(f"{dag.order_loss(stats, jnp.array([1, 0])):.4f}")
      2.6000

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023;
      the closed form is ours.
    """
    _, _, lower = _checked(stats, order)
    return 0.5 * jnp.sum(jnp.diagonal(lower) ** 2)


@jit()
def ols_given_order(stats: GramStats, order: ArrayLike) -> jax.Array:
    r"""Regresses every node on all nodes before it.

    .. math:: W_{o_p o_m} = -C_{mm} K_{mp}, \qquad p < m

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The weights, entry ``[i, j]`` for the edge ``i -> j``, shape ``[d, d]``; exactly
      0 against the order. NaN as in :func:`order_cholesky`.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.ols_given_order(stats, jnp.array([0, 1])))
      [[0. 2.]
       [0. 0.]]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023.
    """
    _, order, lower = _checked(stats, order)
    return to_nodes(weights_in_place(lower, invert_lower(lower)), order)


@jit()
def edge_tstats(stats: GramStats, order: ArrayLike) -> jax.Array:
    r"""The t-statistic of every edge that an order allows.

    .. math:: t_{pm} = -\frac{K_{mp}}{\sqrt{s_{mp}}} \sqrt{\nu - m}, \qquad
        s_{mp} = \sum_{l=p}^{m-1} K_{lp}^2

    with :math:`\nu` the degrees of freedom of the data and ``m`` counted from 0. They
    belong to the regressions of :func:`ols_given_order`, hold exactly for Gaussian
    noise, and do not know of a ridge.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The statistics, entry ``[i, j]`` for the edge ``i -> j``, shape ``[d, d]``; 0
      against the order.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0], [2.0, 5.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=102)
      >>> print(dag.edge_tstats(stats, jnp.array([0, 1])))
      [[ 0. 20.]
       [ 0.  0.]]

    References:
      Any text on linear regression; the sums over one factor are ours.
    """
    stats, order, lower = _checked(stats, order)
    inverse, spread = _slopes_and_spread(lower)
    m = jnp.arange(lower.shape[0]).astype(lower.dtype)
    root = jnp.sqrt(stats.degrees - m)[:, None]
    return to_nodes(jnp.triu((-inverse / jnp.sqrt(spread) * root).T, 1), order)


@jit()
def partial_correlations(stats: GramStats, order: ArrayLike) -> jax.Array:
    r"""Correlation along every edge given all other nodes before its end.

    .. math:: \rho_{pm} = -\frac{K_{mp}}{\sqrt{s_{mp} + K_{mp}^2}}, \qquad
        s_{mp} = \sum_{l=p}^{m-1} K_{lp}^2

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The correlations, entry ``[i, j]`` for the edge ``i -> j``, shape ``[d, d]``; 0
      against the order.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 0.6], [0.6, 1.0]]))
      >>> rho = dag.partial_correlations(stats, jnp.array([0, 1]))
      >>> print(f"{rho[0, 1]:.4f}")
      0.6000

    References:
      Any text on multivariate statistics; the sums over one factor are ours.
    """
    _, order, lower = _checked(stats, order)
    inverse, spread = _slopes_and_spread(lower)
    rho = -inverse / jnp.sqrt(spread + inverse**2)
    return to_nodes(jnp.triu(rho.T, 1), order)


def _slopes_and_spread(lower: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse factor, and its squares summed down to the row above."""
    inverse = invert_lower(lower)
    below = jnp.tril(jnp.ones_like(lower, dtype=bool), -1)
    squares = jnp.cumsum(inverse**2, axis=0)
    above = jnp.concatenate([jnp.zeros_like(squares[:1]), squares[:-1]])
    return inverse, jnp.where(below, above, 1.0)
