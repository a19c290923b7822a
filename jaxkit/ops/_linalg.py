"""Dense linear algebra at full precision."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["cholesky_solve"]


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
