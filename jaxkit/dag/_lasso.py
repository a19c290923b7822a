"""Sparse regressions given an order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._order import as_order
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.typing import ArrayLike

__all__ = ["LassoResult", "lasso_given_order"]

HIGHEST = jax.lax.Precision.HIGHEST


class LassoResult(NamedTuple):
    """What :func:`lasso_given_order` found.

    Attributes:
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``; exactly 0
        where the penalty holds it.
      num_sweeps: how many sweeps were made, int32.
      converged: whether the last one changed less than the tolerance, bool.
    """

    weights: jax.Array
    num_sweeps: jax.Array
    converged: jax.Array


@jit(static_argnames=("max_sweeps",))
def lasso_given_order(
    stats: GramStats,
    order: ArrayLike,
    *,
    l1: ArrayLike = 0.1,
    tol: ArrayLike | None = None,
    max_sweeps: int = 200,
) -> LassoResult:
    r"""Regresses every node on those before it, with a penalty on the weights.

    .. math:: \min_W \tfrac{1}{2n} \|X - XW\|_F^2 + \lambda \|W\|_1

    over weights that respect the order, by cyclic coordinate descent on the moments:
    one row of ``W`` at a time, for all nodes at once. The penalty is per sample. Not
    differentiable in reverse mode.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.
      l1: :math:`\lambda`, not negative, a scalar or one for each edge, ``[d, d]``.
      tol: the largest change of a weight in the last sweep; None means 1e-8 in float64
        and 1e-5 in float32.
      max_sweeps: the most sweeps, at least 1; static.

    Returns:
      The weights and how the descent ended.

    Raises:
      TypeError: if ``order`` does not hold integers or ``l1`` is not floating.
      ValueError: if a shape does not fit or ``max_sweeps`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.lasso_given_order(stats, jnp.array([0, 1]), l1=0.5).weights)
      [[0.  1.5]
       [0.  0. ]]

    References:
      Friedman, Hastie and Tibshirani, *Regularization Paths for Generalized Linear
      Models via Coordinate Descent*, JSS 2010, section 2.
    """
    stats = checked_stats(stats)
    gram = stats.gram
    d = gram.shape[0]
    order = as_order(order, d)
    checks.at_least("max_sweeps", max_sweeps, 1)
    checks.within("l1", l1, low=0.0)
    (l1,) = checks.floating(l1=l1)
    checks.broadcastable("l1", l1, (d, d))
    l1 = jnp.broadcast_to(l1.astype(gram.dtype), (d, d))
    if tol is None:
        tol = 1e-8 if gram.dtype == jnp.float64 else 1e-5
    tol = jnp.asarray(tol, gram.dtype)
    position = jnp.argsort(order)
    allowed = position[:, None] < position[None, :]

    def update(k: jax.Array, weights: jax.Array) -> jax.Array:
        fit = jnp.matmul(gram[k], weights, precision=HIGHEST)
        target = gram[k] - fit + gram[k, k] * weights[k]
        shrunk = jnp.sign(target) * jnp.maximum(jnp.abs(target) - l1[k], 0.0)
        return weights.at[k].set(jnp.where(allowed[k], shrunk / gram[k, k], 0.0))

    def sweep(state: tuple) -> tuple:
        weights, count, _ = state
        new = jax.lax.fori_loop(0, d, update, weights)
        return new, count + 1, jnp.max(jnp.abs(new - weights))

    going = lambda state: (state[1] < max_sweeps) & (state[2] > tol)
    start = (
        jnp.zeros_like(gram),
        jnp.asarray(0, jnp.int32),
        jnp.asarray(jnp.inf, gram.dtype),
    )
    weights, count, change = jax.lax.while_loop(going, sweep, start)
    return LassoResult(weights, count, change <= tol)
