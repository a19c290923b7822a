"""Stationarity of a weighted acyclic graph."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_logdet_grad
from jaxkit.dag._graphs import ancestors
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike

__all__ = ["candidate_pairs", "kkt_residual"]


def _checked(weights: ArrayLike, grad: ArrayLike) -> tuple[jax.Array, jax.Array]:
    weights, grad = checks.floating(weights=weights, grad=grad)
    square("weights", weights)
    checks.same_shape(weights=weights, grad=grad)
    dtype = accumulation_dtype(weights, grad)
    return weights.astype(dtype), grad.astype(dtype)


def _diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.eye(matrix.shape[0], dtype=bool)


@jit()
def kkt_residual(
    weights: ArrayLike, grad: ArrayLike, *, l1: ArrayLike = 0.0
) -> jax.Array:
    r"""How far an acyclic graph is from a stationary point.

    .. math:: \max_{i \ne j,\ j \not\rightsquigarrow i} |\partial_{ij}|, \qquad
        \partial = \begin{cases} \nabla Q + \lambda \operatorname{sign} W, & W \ne 0 \\
        \nabla Q - \operatorname{clip}(\nabla Q, -\lambda, \lambda), & W = 0
        \end{cases}

    With the constraint put on :math:`|W|`, a graph satisfies the KKT conditions exactly
    when this is 0: no weight on an edge that closes no cycle can lower the score. For a
    convex score such a point is a local minimum. (Put on :math:`W \circ W`, the
    conditions hold only where the whole gradient is 0.) Walks are found exactly, not by
    a threshold.

    Args:
      weights: the weights of an acyclic graph, shape ``[d, d]``.
      grad: the gradient of the smooth part of the score, such as
        :func:`least_squares_grad`, shape ``[d, d]``.
      l1: the factor of the penalty :math:`\lambda \|W\|_1`, not negative.

    Returns:
      The residual, a scalar, at least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if the shapes differ or are not square, or ``l1`` is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> w = jnp.array([[0.0, 1.5], [0.0, 0.0]])
      >>> print(dag.kkt_residual(w, dag.least_squares_grad(stats, w)))
      0.5

    References:
      Wei, Gao and Yu, *DAGs with No Fears: A Closer Look at Continuous Optimization for
      Learning Bayesian Networks*, NeurIPS 2020, theorem 7.
    """
    checks.within("l1", l1, low=0.0)
    weights, grad = _checked(weights, grad)
    (l1,) = checks.floating(l1=l1)
    l1 = l1.astype(grad.dtype)
    slope = jnp.where(
        weights != 0, grad + l1 * jnp.sign(weights), grad - jnp.clip(grad, -l1, l1)
    )
    free = ~_diagonal(weights) & ~ancestors(weights).T
    return jnp.max(jnp.where(free, jnp.abs(slope), 0.0))


@jit()
def candidate_pairs(
    weights: ArrayLike, grad: ArrayLike, *, tau: ArrayLike = 0.0, xi: ArrayLike = 0.0
) -> jax.Array:
    r"""Marks the edges that would lower the score and hardly close a cycle.

    .. math:: Y = \{(i, j) : i \ne j,\ \nabla h(|W|)_{ij} \le \tau,\
        |\nabla Q_{ij}| > \xi\}

    with the log-determinant ``h``. At ``tau = 0`` these are the edges that close no
    cycle at all, and ``Y`` is empty exactly at KKT points. The regression of every
    order is one as soon as no weight vanishes, hence the ``tau`` above 0.

    Args:
      weights: the weights of a graph of spectral radius below 1, in absolute value;
        shape ``[d, d]``.
      grad: the gradient of the score, shape ``[d, d]``.
      tau: the largest total weight of the walks that the edge would close, a scalar.
      xi: the slope that an edge must exceed, a scalar.

    Returns:
      The candidates, bool, shape ``[d, d]``.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if the shapes differ or are not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> w = jnp.zeros((2, 2))
      >>> print(dag.candidate_pairs(w, dag.least_squares_grad(stats, w)))
      [[False  True]
       [ True False]]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      section 4.
    """
    weights, grad = _checked(weights, grad)
    tau, xi = checks.floating(tau=tau, xi=xi)
    # Rounding in the inverse must not turn the absence of a walk into a small weight.
    walks = ancestors(weights).T
    closed = jnp.where(walks, h_logdet_grad(jnp.abs(weights)), 0.0)
    harmless = closed <= tau.astype(grad.dtype)
    return harmless & ~_diagonal(weights) & (jnp.abs(grad) > xi.astype(grad.dtype))
