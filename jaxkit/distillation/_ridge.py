"""Ridge regression on fixed features: the ridge, the weights and the predictions."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._solvers import METHODS, matmul, ridge_weights
from jaxkit.typing import ArrayLike

__all__ = [
    "SCALES",
    "check_examples",
    "check_features",
    "check_ridge",
    "check_scalar",
    "krr_fit",
    "ridge_from_trace",
    "ridge_predict",
]

SCALES = ("trace", "mean_trace", "absolute")


def check_ridge(ridge: ArrayLike) -> None:
    """Raises on a number that is not positive; arrays give NaN later."""
    if isinstance(ridge, int | float | np.number):
        checks.positive(ridge=float(ridge))


def check_scalar(**values: jax.Array) -> None:
    """Raises unless the arrays have no axes."""
    for name, value in values.items():
        if value.ndim:
            raise ValueError(f"`{name}` must be a scalar, got shape {value.shape}.")


def check_examples(**pair: jax.Array) -> None:
    """Raises unless features and targets are matrices with as many rows, at least 1."""
    for name, array in pair.items():
        if array.ndim != 2:
            raise ValueError(f"`{name}` must have 2 axes, got shape {array.shape}.")
        checks.axis_size(name, array, 0, 1)
    (first, one), (second, other) = pair.items()
    if one.shape[0] != other.shape[0]:
        raise ValueError(
            f"`{first}` and `{second}` must have as many rows, "
            f"got {one.shape} and {other.shape}."
        )


def check_features(**pair: jax.Array) -> None:
    """Raises unless both are matrices with as many columns and at least one row."""
    for name, array in pair.items():
        if array.ndim != 2:
            raise ValueError(f"`{name}` must have 2 axes, got shape {array.shape}.")
        checks.axis_size(name, array, 0, 1)
    (first, one), (second, other) = pair.items()
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"`{first}` and `{second}` must have as many columns, "
            f"got {one.shape} and {other.shape}."
        )


@jit(static_argnames=("num_examples", "scale"))
def ridge_from_trace(
    gram_trace: ArrayLike,
    *,
    coef: ArrayLike = 1e-6,
    num_examples: int | None = None,
    scale: str = "trace",
) -> jax.Array:
    r"""Computes the ridge from the trace of the Gram matrix.

    .. math::
        \lambda = c \operatorname{tr} K, \qquad
        \lambda = \tfrac{c}{n} \operatorname{tr} K \qquad\text{or}\qquad \lambda = c

    With the whole trace the condition number of :math:`K + \lambda I` is at most
    :math:`1 + 1/c` for every ``n``; with the mean it grows up to :math:`1 + n/c`, more
    than float32 can factorize once ``K`` is rank deficient.

    Args:
      gram_trace: trace of ``K``, the sum of squares of all features, shape ``[...]``.
      coef: the factor ``c``.
      num_examples: the number ``n`` of training examples; only ``"mean_trace"`` needs it.
      scale: ``"trace"`` (KRR-ST), ``"mean_trace"`` (KIP, FRePo, RFAD) or ``"absolute"``,
        which ignores the trace (RCIG takes ``coef`` times ``n`` there).

    Returns:
      The ridge, shape ``[...]``, at least float32. It is differentiable in the trace;
      KRR-ST stops the gradient there.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if ``scale`` is unknown or ``num_examples`` missing or below 1.

    Examples:
      >>> from jaxkit import distillation
      >>> print(distillation.ridge_from_trace(7.0, coef=0.5))
      3.5
      >>> print(distillation.ridge_from_trace(8.0, coef=0.5, num_examples=2, scale="mean_trace"))
      2.0

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """
    checks.one_of("scale", scale, SCALES)
    gram_trace, coef = checks.floating(gram_trace=gram_trace, coef=coef)
    dtype = accumulation_dtype(gram_trace)
    gram_trace, coef = gram_trace.astype(dtype), coef.astype(dtype)
    if scale == "absolute":
        return jnp.broadcast_to(coef, gram_trace.shape)
    if scale == "trace":
        return coef * gram_trace
    if num_examples is None:
        raise ValueError('`num_examples` is needed for scale "mean_trace", got None.')
    checks.at_least("num_examples", num_examples, 1)
    return coef * gram_trace / num_examples


def krr_fit(
    feat_s: ArrayLike, y_s: ArrayLike, ridge: ArrayLike, *, method: str = "auto"
) -> jax.Array:
    r"""Fits the weights of a ridge regression, with a closed-form derivative.

    .. math:: W = F^\top (F F^\top + \lambda I_n)^{-1} Y
                = (F^\top F + \lambda I_p)^{-1} F^\top Y

    the minimizer of :math:`\|F W - Y\|^2 + \lambda \|W\|^2`: a SUM over examples; for a
    ridge meant for the mean pass ``n`` times it. No bias: append a column of ones for
    one that is regularized like the rest.

    The methods give the same function and the same derivative in exact arithmetic:

    * ``"cholesky"``: of the ``n x n`` matrix, ``n^2 p + n^3 / 3`` multiplications;
    * ``"primal"``: of the ``p x p`` matrix, for ``n > p``;
    * ``"qr"``: of ``F^T`` stacked on ``sqrt(ridge) I`` or, for ``n > p``, of ``F`` so
      stacked. It never forms a Gram matrix, so it loses half as many digits: the choice
      in float32;
    * ``"auto"``: below float64 ``"qr"`` as long as ``n`` or ``p`` is at most 2,048, else
      ``"cholesky"`` or, for ``n > p``, ``"primal"``;
    * ``"autodiff"``: ``"cholesky"`` differentiated step by step, for comparison only.

    In float32, with a ridge of 1e-6 of the trace and features of a ReLU network, the
    gradient has an error near 1e-2 by ``"cholesky"`` and below 1e-4 by ``"qr"``; with
    that ridge over ``n`` and ``n > p`` ``"cholesky"`` gives NaN.

    Args:
      feat_s: features ``F`` of the training examples, shape ``[n, p]``.
      y_s: their targets ``Y``, shape ``[n, k]``.
      ridge: ``lambda``, a positive scalar. An array that is not positive gives NaN.
      method: how to solve, see above.

    Returns:
      The weights ``W``, shape ``[p, k]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, ``method`` is unknown, or ``ridge``
        is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> features, targets = jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [3.0]])
      >>> print(f"{distillation.krr_fit(features, targets, 1.0)[0, 0]:.4f}")  # 7/6
      1.1667

    References:
      Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021.
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """
    check_ridge(ridge)
    return _krr_fit(feat_s, y_s, ridge, method=method)


@jit(static_argnames=("method",))
def _krr_fit(
    feat_s: ArrayLike, y_s: ArrayLike, ridge: ArrayLike, *, method: str
) -> jax.Array:
    checks.one_of("method", method, METHODS)
    feat_s, y_s, ridge = checks.floating(feat_s=feat_s, y_s=y_s, ridge=ridge)
    check_examples(feat_s=feat_s, y_s=y_s)
    check_scalar(ridge=ridge)
    dtype = accumulation_dtype(feat_s, y_s)
    return ridge_weights(
        feat_s.astype(dtype), y_s.astype(dtype), ridge.astype(dtype), method
    )


def ridge_predict(
    feat_s: ArrayLike,
    y_s: ArrayLike,
    feat_t: ArrayLike,
    ridge: ArrayLike,
    *,
    method: str = "auto",
) -> jax.Array:
    r"""Predicts by ridge regression, differentiable in all four arguments.

    .. math:: P = F_t F_s^\top (F_s F_s^\top + \lambda I)^{-1} Y_s = F_t W

    One factorization serves the prediction and its gradient. With the cotangent
    :math:`\bar P`, :math:`H = F_t^\top \bar P`, :math:`A = F_s F_s^\top + \lambda I`,
    :math:`\alpha = A^{-1} Y_s` and :math:`B = A^{-1} F_s H`,

    .. math::
        \bar Y_s = B, \qquad \bar F_t = \bar P W^\top, \qquad
        \bar F_s = \alpha (H - F_s^\top B)^\top - B W^\top, \qquad
        \bar\lambda = -\langle B, \alpha\rangle .

    Forward mode and second derivatives work as well. When ``feat_t`` is sharded over
    devices under ``jax.shard_map``, the only thing that crosses them is :math:`H`.

    Args:
      feat_s: features of the training examples, shape ``[n, p]``.
      y_s: their targets, shape ``[n, k]``.
      feat_t: features to predict at, shape ``[batch, p]``.
      ridge: ``lambda``, a positive scalar. An array that is not positive gives NaN.
      method: how to solve, see :func:`krr_fit`.

    Returns:
      The predictions, shape ``[batch, k]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, ``method`` is unknown, or ``ridge``
        is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> features, targets = jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [3.0]])
      >>> print(distillation.ridge_predict(features, targets, jnp.array([[3.0]]), 1.0).round(4))
      [[3.5]]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """
    check_ridge(ridge)
    return _ridge_predict(feat_s, y_s, feat_t, ridge, method=method)


@jit(static_argnames=("method",))
def _ridge_predict(
    feat_s: ArrayLike,
    y_s: ArrayLike,
    feat_t: ArrayLike,
    ridge: ArrayLike,
    *,
    method: str,
) -> jax.Array:
    feat_s, y_s, feat_t = checks.floating(feat_s=feat_s, y_s=y_s, feat_t=feat_t)
    check_features(feat_s=feat_s, feat_t=feat_t)
    dtype = accumulation_dtype(feat_s, y_s, feat_t)
    weights = krr_fit(feat_s.astype(dtype), y_s.astype(dtype), ridge, method=method)
    return matmul(feat_t.astype(dtype), weights)
