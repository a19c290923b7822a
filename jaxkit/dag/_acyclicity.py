"""Smooth functions that are zero exactly on acyclic graphs."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._stats import square
from jaxkit.dag._walk_series import expm1, power_less_one
from jaxkit.typing import ArrayLike

__all__ = [
    "h_expm",
    "h_expm_grad",
    "h_inv",
    "h_inv_grad",
    "h_logdet",
    "h_logdet_grad",
    "h_poly",
    "h_poly_grad",
    "in_logdet_domain",
]

HIGHEST = jax.lax.Precision.HIGHEST


def _checked(matrix: ArrayLike) -> jax.Array:
    (matrix,) = checks.floating(matrix=matrix)
    square("matrix", matrix)
    return matrix.astype(accumulation_dtype(matrix))


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def _eye(matrix: jax.Array) -> jax.Array:
    return jnp.eye(matrix.shape[0], dtype=matrix.dtype)


@jit()
def h_expm(matrix: ArrayLike) -> jax.Array:
    r"""Weighs all closed walks by the exponential series.

    .. math:: h(A) = \operatorname{tr} e^A - d = \sum_{k \ge 1} \operatorname{tr} A^k / k!

    Computed without the identity, so it is 0 exactly for acyclic graphs, unless a power
    overflows, and keeps its digits near them. For entries that are not negative; apply
    it to :math:`|W|` or :math:`W \circ W`. It overflows for norms near 90 in float32
    and 700 in float64.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_expm(jnp.eye(3, k=1)))
      0.0

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, theorem 1.
    """
    return jnp.trace(expm1(_checked(matrix)))


@jit()
def h_expm_grad(matrix: ArrayLike) -> jax.Array:
    r"""The gradient of :func:`h_expm`.

    .. math:: \nabla h(A) = (e^A)^\top

    Entry ``[i, j]`` is positive exactly where ``i = j`` or a walk leads from ``j`` to
    ``i``: where an edge from ``i`` to ``j`` would close a cycle.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.

    Returns:
      The gradient, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_expm_grad(jnp.eye(2, k=1)))
      [[1. 0.]
       [1. 1.]]

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, theorem 1.
    """
    matrix = _checked(matrix)
    return (_eye(matrix) + expm1(matrix)).T


@jit()
def h_poly(matrix: ArrayLike) -> jax.Array:
    r"""Weighs all closed walks by a binomial series.

    .. math:: h(A) = \operatorname{tr}(I + A / d)^d - d

    Computed without the identity, so it is 0 exactly for acyclic graphs, unless a power
    overflows.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_poly(jnp.array([[0.0, 1.0], [1.0, 0.0]])))
      0.5

    References:
      Yu et al., *DAG-GNN: DAG Structure Learning with Graph Neural Networks*, ICML
      2019, section 3.3.
    """
    matrix = _checked(matrix)
    d = matrix.shape[0]
    return jnp.trace(power_less_one(matrix / d, d))


@jit()
def h_poly_grad(matrix: ArrayLike) -> jax.Array:
    r"""The gradient of :func:`h_poly`.

    .. math:: \nabla h(A) = \bigl((I + A / d)^{d-1}\bigr)^\top

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.

    Returns:
      The gradient, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_poly_grad(jnp.eye(2, k=1)))
      [[1.  0. ]
       [0.5 1. ]]

    References:
      Yu et al., *DAG-GNN: DAG Structure Learning with Graph Neural Networks*, ICML
      2019, section 3.3.
    """
    matrix = _checked(matrix)
    d = matrix.shape[0]
    return (_eye(matrix) + power_less_one(matrix / d, d - 1)).T


@jit()
def h_logdet(matrix: ArrayLike, *, s: ArrayLike = 1.0) -> jax.Array:
    r"""Weighs all closed walks by the logarithmic series.

    .. math:: h(A) = -\log\det(s I - A) + d \log s
        = \sum_{k \ge 1} \frac{\operatorname{tr} A^k}{k s^k}

    Only for spectral radius below ``s``, see :func:`in_logdet_domain`; always so for an
    acyclic graph. Where the determinant is not positive the result is NaN.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.
      s: a positive scalar.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``matrix`` is not square or ``s`` not a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> h = dag.h_logdet(jnp.array([[0.0, 0.5], [0.5, 0.0]]))
      >>> print(f"{h:.4f}")
      0.2877

    References:
      Bello, Aragam and Ravikumar, *DAGMA: Learning DAGs via M-matrices and a
      Log-Determinant Acyclicity Characterization*, NeurIPS 2022, section 3.
    """
    matrix, s = _checked(matrix), _scale(s, matrix)
    sign, logdet = jnp.linalg.slogdet(_eye(matrix) - matrix / s)
    return jnp.where(sign > 0, -logdet, jnp.nan)


def _scale(s: ArrayLike, matrix: ArrayLike) -> jax.Array:
    checks.positive(s=s)
    (s,) = checks.floating(s=s)
    if s.ndim:
        raise ValueError(f"`s` must be a scalar, got shape {s.shape}.")
    return s.astype(accumulation_dtype(jnp.asarray(matrix)))


@jit()
def h_logdet_grad(matrix: ArrayLike, *, s: ArrayLike = 1.0) -> jax.Array:
    r"""The gradient of :func:`h_logdet`.

    .. math:: \nabla h(A) = (s I - A)^{-\top}

    Entry ``[i, j]`` at ``s = 1`` is the total weight of the walks from ``j`` to ``i``,
    a walk weighing the product of its edges.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.
      s: a positive scalar above the spectral radius.

    Returns:
      The gradient, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``matrix`` is not square or ``s`` not a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_logdet_grad(2.0 * jnp.eye(2, k=1)).round(4))
      [[1. 0.]
       [2. 1.]]

    References:
      Bello, Aragam and Ravikumar, *DAGMA: Learning DAGs via M-matrices and a
      Log-Determinant Acyclicity Characterization*, NeurIPS 2022, section 3.
    """
    matrix, s = _checked(matrix), _scale(s, matrix)
    return jnp.linalg.inv(s * _eye(matrix) - matrix).T


@jit()
def in_logdet_domain(matrix: ArrayLike, *, s: ArrayLike = 1.0) -> jax.Array:
    r"""Says whether the log-determinant may be used.

    .. math:: \rho(A) < s \iff (s I - A)^{-1} \ge 0

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.
      s: a positive scalar.

    Returns:
      Whether the inverse has no negative entry, up to rounding; a bool scalar.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``matrix`` is not square or ``s`` not a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.in_logdet_domain(jnp.array([[0.0, 2.0], [2.0, 0.0]])))
      False

    References:
      Bello, Aragam and Ravikumar, *DAGMA: Learning DAGs via M-matrices and a
      Log-Determinant Acyclicity Characterization*, NeurIPS 2022, section 3.
    """
    matrix, s = _checked(matrix), _scale(s, matrix)
    inverse = jnp.linalg.inv(s * _eye(matrix) - matrix)
    rounding = 8.0 * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(inverse))
    return jnp.all(jnp.isfinite(inverse)) & jnp.all(inverse >= -rounding)


@jit()
def h_inv(matrix: ArrayLike) -> jax.Array:
    r"""Weighs all closed walks alike.

    .. math:: h(A) = \operatorname{tr}(I - A)^{-1} - d = \sum_{k \ge 1}
        \operatorname{tr} A^k

    Only for spectral radius below 1.

    Args:
      matrix: ``A``, not negative, shape ``[d, d]``.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> h = dag.h_inv(jnp.array([[0.0, 0.5], [0.5, 0.0]]))
      >>> print(f"{h:.4f}")
      0.6667

    References:
      Zhang et al., *Truncated Matrix Power Iteration for Differentiable DAG Learning*,
      NeurIPS 2022.
    """
    matrix = _checked(matrix)
    # A (I - A)^-1 rather than (I - A)^-1 - I, which cancels.
    return jnp.trace(jnp.linalg.solve(_eye(matrix) - matrix, matrix))


@jit()
def h_inv_grad(matrix: ArrayLike) -> jax.Array:
    r"""The gradient of :func:`h_inv`.

    .. math:: \nabla h(A) = \bigl((I - A)^{-2}\bigr)^\top

    Args:
      matrix: ``A``, not negative, of spectral radius below 1, shape ``[d, d]``.

    Returns:
      The gradient, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``matrix`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.h_inv_grad(0.5 * jnp.eye(2, k=1)).round(4))
      [[1. 0.]
       [1. 1.]]

    References:
      Zhang et al., *Truncated Matrix Power Iteration for Differentiable DAG Learning*,
      NeurIPS 2022.
    """
    matrix = _checked(matrix)
    inverse = jnp.linalg.inv(_eye(matrix) - matrix)
    return _times(inverse, inverse).T
