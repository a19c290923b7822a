"""Dense linear algebra at full precision."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["cholesky_solve", "squared_distances"]


@jit()
def cholesky_solve(matrix: ArrayLike, rhs: ArrayLike) -> jax.Array:
    r"""Solves Hermitian positive definite systems by a Cholesky factorization.

    .. math:: X = A^{-1} B, \qquad A = L L^*

    A matrix that is not positive definite gives NaN, no exception: JAX cannot raise
    on values. The relative error is about ``eps * cond(A)``, so a float32 solve
    loses every digit at a condition number near 1e7.

    Args:
      matrix: ``A``, real or complex, shape ``[..., n, n]``; only the lower triangle
        is read.
      rhs: ``B``, shape ``[..., n, k]``, with the leading axes of ``matrix``.

    Returns:
      ``X``, shape ``[..., n, k]``, in the promoted dtype, at least float32.

    Raises:
      TypeError: if an argument is not floating or complex.
      ValueError: if ``matrix`` is not square or the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> a = jnp.array([[4.0, 2.0], [2.0, 2.0]])
      >>> print(ops.cholesky_solve(a, jnp.array([[8.0], [6.0]])))
      [[1.]
       [2.]]

    References:
      Golub and Van Loan, *Matrix Computations*, 4th ed., section 4.2.
    """
    matrix, rhs = checks.inexact(matrix=matrix, rhs=rhs)
    checks.min_ndim("matrix", matrix, 2)
    n = matrix.shape[-1]
    checks.shape("matrix", matrix, (n, n))
    checks.shape("rhs", rhs, (*matrix.shape[:-2], n, None))
    dtype = accumulation_dtype(matrix, rhs)
    factor = jnp.linalg.cholesky(matrix.astype(dtype), symmetrize_input=False)
    return cho_solve((factor, True), rhs.astype(dtype))


@jit()
def squared_distances(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Computes the squared Euclidean distance of every row to every row.

    .. math:: d_{ij} = \|x_i - y_j\|^2 = \|x_i\|^2 + \|y_j\|^2 - 2 x_i^\top y_j

    From one matrix product at full precision, clipped at 0. Both sets are first moved
    by the mean of ``y``, so that a common offset costs no digits; the absolute error is
    that of rounding the largest squared distance from that mean. The gradient at
    coincident rows is 0.

    Args:
      x: rows, shape ``[..., n, dim]``.
      y: rows, shape ``[..., m, dim]``, with the leading axes of ``x``.

    Returns:
      The distances, shape ``[..., n, m]``, in the promoted dtype, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit or ``y`` has no rows.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> x, y = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([[3.0, 0.0]])
      >>> print(ops.squared_distances(x, y))
      [[ 9.]
       [16.]]
    """
    x, y = checks.floating(x=x, y=y)
    checks.min_ndim("x", x, 2)
    checks.shape("y", y, (*x.shape[:-2], None, x.shape[-1]))
    checks.axis_size("y", y, -2, 1)
    dtype = accumulation_dtype(x, y)
    x, y = x.astype(dtype), y.astype(dtype)
    # Distances do not move with the origin, so neither do their derivatives.
    origin = jax.lax.stop_gradient(jnp.mean(y, axis=-2, keepdims=True))
    x, y = x - origin, y - origin
    squares = [jnp.sum(jnp.square(points), axis=-1) for points in (x, y)]
    cross = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    total = squares[0][..., :, None] + squares[1][..., None, :]
    return jnp.maximum(total - 2.0 * cross, 0.0)
