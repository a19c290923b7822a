"""The outer loss of distillation: the error of a ridge regression on features."""

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
    ridge_from_trace,
    ridge_predict,
)
from jaxkit.distillation._solvers import matmul, shifted
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["append_ones", "kernel_ridge_predict", "krr_loss"]


def append_ones(features: jax.Array) -> jax.Array:
    """Appends the column of ones whose weight is the bias."""
    ones = jnp.ones((features.shape[0], 1), features.dtype)
    return jnp.concatenate([features, ones], axis=1)


@jit(static_argnames=("scale", "bias", "stop_gradient_ridge", "method"))
def krr_loss(
    feat_s: ArrayLike,
    y_s: ArrayLike,
    feat_t: ArrayLike,
    y_t: ArrayLike,
    *,
    coef: ArrayLike = 1e-6,
    scale: str = "trace",
    bias: bool = True,
    stop_gradient_ridge: bool = True,
    method: str = "auto",
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the error of a ridge regression from synthetic to real examples.

    .. math:: \ell_b = \tfrac1k \sum_j (F_t W - Y_t)_{bj}^2, \qquad
        W = F_s^\top (F_s F_s^\top + \lambda I)^{-1} Y_s

    The mean over the batch is the outer loss of KRR-ST. KIP's is half of that mean;
    FRePo sums over the ``k`` outputs, which is ``k / 2`` times it. The defaults are
    those of KRR-ST; KIP and FRePo take ``scale="mean_trace"``, ``bias=False`` and
    ``stop_gradient_ridge=False``.

    Args:
      feat_s: features of the synthetic examples, shape ``[n, p]``.
      y_s: their targets, shape ``[n, k]``.
      feat_t: features of the real examples, shape ``[batch, p]``. Features of a frozen
        network want :func:`jax.lax.stop_gradient`.
      y_t: their targets, shape ``[batch, k]``.
      coef: the ridge relative to the trace, or itself, see :func:`ridge_from_trace`.
        One that is not positive gives NaN, as do features that are all 0.
      scale: ``"trace"``, ``"mean_trace"`` or ``"absolute"``.
      bias: whether to append a column of ones, whose weight is regularized as well.
      stop_gradient_ridge: whether the ridge is a constant to the gradient.
      method: how to solve, see :func:`krr_fit`.
      where: which real examples count, bool, broadcastable to ``[batch]``; the others
        give 0 and no gradient.

    Returns:
      The loss of each real example, shape ``[batch]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes do not fit or are empty, or an option is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> loss = distillation.krr_loss(
      ...     jnp.array([[1.0], [2.0]]),
      ...     jnp.array([[1.0], [3.0]]),
      ...     jnp.array([[3.0], [0.0]]),
      ...     jnp.array([[5.0], [1.0]]),
      ...     coef=1 / 7,
      ... )
      >>> print([f"{x:.4f}" for x in loss])  # (5/3)^2 and (2/3)^2
      ['2.7778', '0.4444']

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
      Zhou et al., *Dataset Distillation using Neural Feature Regression*, NeurIPS 2022.
      Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021.
    """
    feat_s, y_s, feat_t, y_t = checks.floating(
        feat_s=feat_s, y_s=y_s, feat_t=feat_t, y_t=y_t
    )
    check_features(feat_s=feat_s, feat_t=feat_t)
    check_features(y_s=y_s, y_t=y_t)
    check_examples(feat_s=feat_s, y_s=y_s)
    check_examples(feat_t=feat_t, y_t=y_t)
    mask = checks.mask("where", where, y_t.shape[:1])
    dtype = accumulation_dtype(feat_s, y_s, feat_t, y_t)
    feat_s, y_s, feat_t, y_t = (x.astype(dtype) for x in (feat_s, y_s, feat_t, y_t))
    feat_t, y_t = (masked_fill(x, mask[:, None]) for x in (feat_t, y_t))
    if bias:
        feat_s, feat_t = append_ones(feat_s), append_ones(feat_t)
    ridge = ridge_from_trace(
        jnp.sum(jnp.square(feat_s)), coef=coef, num_examples=len(feat_s), scale=scale
    )
    if stop_gradient_ridge:
        ridge = jax.lax.stop_gradient(ridge)
    predicted = ridge_predict(feat_s, y_s, feat_t, ridge, method=method)
    return masked_fill(jnp.mean(jnp.square(predicted - y_t), axis=1), mask)


def kernel_ridge_predict(
    k_ss: ArrayLike, y_s: ArrayLike, k_ts: ArrayLike, ridge: ArrayLike
) -> jax.Array:
    r"""Predicts by ridge regression with any kernel, given its matrices.

    .. math:: P = K_{ts} (K_{ss} + \lambda I)^{-1} Y_s

    The gradient reuses the Cholesky factor. A kernel matrix carries its own rounding:
    in float32 take a ridge of at least 1e-6 of the trace, or use float64.

    Args:
      k_ss: kernel among the training examples, symmetric, shape ``[n, n]``; the
        factorization reads the lower triangle.
      y_s: their targets, shape ``[n, k]``.
      k_ts: kernel from the points of prediction to them, shape ``[batch, n]``.
      ridge: ``lambda``, a positive scalar. An array that is not positive gives NaN.

    Returns:
      The predictions, shape ``[batch, k]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, or ``ridge`` is a number that is
        not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> k_ss, k_ts = jnp.array([[1.0, 2.0], [2.0, 4.0]]), jnp.array([[3.0, 6.0]])
      >>> y_s = jnp.array([[1.0], [3.0]])
      >>> print(distillation.kernel_ridge_predict(k_ss, y_s, k_ts, 1.0).round(4))
      [[3.5]]

    References:
      Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021.
    """
    check_ridge(ridge)
    return _kernel_ridge_predict(k_ss, y_s, k_ts, ridge)


@jit()
def _kernel_ridge_predict(
    k_ss: ArrayLike, y_s: ArrayLike, k_ts: ArrayLike, ridge: ArrayLike
) -> jax.Array:
    k_ss, y_s, k_ts, ridge = checks.floating(k_ss=k_ss, y_s=y_s, k_ts=k_ts, ridge=ridge)
    check_features(k_ss=k_ss, k_ts=k_ts)
    check_examples(k_ss=k_ss, y_s=y_s)
    checks.shape("k_ss", k_ss, (len(k_ss), len(k_ss)))
    check_scalar(ridge=ridge)
    dtype = accumulation_dtype(k_ss, y_s, k_ts)
    k_ss, y_s, k_ts, ridge = (x.astype(dtype) for x in (k_ss, y_s, k_ts, ridge))
    matrix = shifted(k_ss, jnp.where(ridge > 0, ridge, jnp.nan))
    # The derivative of the solution is another solve with the same factor.
    factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    alpha = jax.lax.custom_linear_solve(
        lambda x: matmul(matrix, x),
        y_s,
        lambda _, rhs: jax.scipy.linalg.cho_solve((factor, True), rhs),
        symmetric=True,
    )
    return matmul(k_ts, alpha)
