"""The best targets for fixed synthetic features."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._ridge import (
    check_examples,
    check_features,
    check_ridge,
    check_scalar,
)
from jaxkit.distillation._solvers import matmul
from jaxkit.typing import ArrayLike

__all__ = ["label_solve"]


def label_solve(
    feat_s: ArrayLike,
    feat_t: ArrayLike,
    y_t: ArrayLike,
    ridge: ArrayLike,
    *,
    rcond: ArrayLike = 1e-6,
) -> jax.Array:
    r"""Computes the synthetic targets that predict the real ones best.

    .. math:: Y_s^\star = (F_s F_s^\top + \lambda I)\, \alpha^\star, \qquad
        \alpha^\star = (F_t F_s^\top)^{+} Y_t

    Predictions are linear in :math:`\alpha = (F_s F_s^\top + \lambda I)^{-1} Y_s`, so
    this is a least-squares problem with a closed solution, the one of least
    :math:`\|\alpha\|`. Up to the directions that ``rcond`` leaves out no targets have a
    smaller error on the same batch and features: an oracle for learned ones, or a
    start. The ridge does not limit the predictions, only what the targets look like.
    For the bias of :func:`krr_loss` append a column of ones to both features.

    Args:
      feat_s: features of the synthetic examples, shape ``[n, p]``.
      feat_t: features of the real examples, shape ``[batch, p]``.
      y_t: their targets, shape ``[batch, k]``.
      ridge: the positive ridge that the targets are meant for, a scalar. An array that
        is not positive gives NaN.
      rcond: singular values below this part of the largest count as 0.

    Returns:
      The targets of the synthetic examples, shape ``[n, k]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, or ``ridge`` is a number that is
        not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> feat_s = jnp.array([[1.0, 1.0], [2.0, 1.0]])
      >>> feat_t = jnp.array([[3.0, 1.0], [0.0, 1.0]])
      >>> y_s = distillation.label_solve(feat_s, feat_t, jnp.array([[5.0], [1.0]]), 1.0)
      >>> print([f"{y:.3f}" for y in y_s[:, 0]])
      ['3.000', '4.000']

    References:
      Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021.
    """
    check_ridge(ridge)
    return _label_solve(feat_s, feat_t, y_t, ridge, rcond)


@jit()
def _label_solve(
    feat_s: ArrayLike,
    feat_t: ArrayLike,
    y_t: ArrayLike,
    ridge: ArrayLike,
    rcond: ArrayLike,
) -> jax.Array:
    feat_s, feat_t, y_t, ridge, rcond = checks.floating(
        feat_s=feat_s, feat_t=feat_t, y_t=y_t, ridge=ridge, rcond=rcond
    )
    check_features(feat_s=feat_s, feat_t=feat_t)
    check_examples(feat_t=feat_t, y_t=y_t)
    check_scalar(ridge=ridge, rcond=rcond)
    dtype = accumulation_dtype(feat_s, feat_t, y_t)
    feat_s, feat_t, y_t, ridge, rcond = (
        a.astype(dtype) for a in (feat_s, feat_t, y_t, ridge, rcond)
    )
    kernel = matmul(feat_t, feat_s.T)
    alpha = matmul(_pseudo_inverse(kernel, rcond), y_t)
    ridge = jnp.where(ridge > 0, ridge, jnp.nan)
    return matmul(feat_s, matmul(feat_s.T, alpha)) + ridge * alpha


@jax.custom_jvp
def _pseudo_inverse(matrix: jax.Array, rcond: jax.Array) -> jax.Array:
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    keep = values > rcond * values[0]
    inverse = jnp.where(keep, 1.0 / jnp.where(keep, values, 1.0), 0.0)
    return matmul(right.T * inverse[None], left.T)


@_pseudo_inverse.defjvp
def _pseudo_inverse_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The derivative at constant rank, finite also where singular values coincide.

    Golub and Pereyra, *The Differentiation of Pseudo-Inverses and Nonlinear Least
    Squares Problems Whose Variables Separate*, 1973.
    """
    matrix, rcond = primals
    change = tangents[0]
    inverse = _pseudo_inverse(matrix, rcond)
    outside = lambda x: x - matmul(matrix, matmul(inverse, x))
    unseen = lambda x: x - matmul(inverse, matmul(matrix, x))
    tangent = -matmul(inverse, matmul(change, inverse))
    tangent += matmul(inverse, matmul(inverse.T, outside(change).T))
    tangent += matmul(matmul(unseen(change.T), inverse.T), inverse)
    return inverse, tangent
