"""Losses of two views of a batch, to train a network without labels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._solvers import matmul
from jaxkit.ops import masked_fill
from jaxkit.ops import ntxent_loss as labeled_ntxent_loss
from jaxkit.typing import ArrayLike

__all__ = ["barlow_twins_loss", "ntxent_loss", "vicreg_loss"]


class _Views(NamedTuple):
    """Two centered views; examples that do not count are rows of zeros."""

    first: jax.Array
    second: jax.Array
    difference: jax.Array
    count: jax.Array
    total: Callable[[jax.Array], jax.Array]
    """Sums over devices."""


@jit(static_argnames=("axis_name",))
def barlow_twins_loss(
    first: ArrayLike,
    second: ArrayLike,
    *,
    off_diagonal_weight: ArrayLike = 0.0051,
    eps: ArrayLike = 1e-5,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the Barlow Twins loss of a batch, one number.

    .. math:: \ell = \sum_i (C_{ii} - 1)^2 + w \sum_{i \ne j} C_{ij}^2, \qquad
        C = \tfrac1N \hat z_1^\top \hat z_2

    with every column of :math:`z` standardized by its mean and its variance (over ``N``)
    plus ``eps``. A statistic of the batch has no value per example, so this is a scalar.

    Args:
      first: embeddings of one view, shape ``[N, D]``.
      second: embeddings of the other view, shape ``[N, D]``.
      off_diagonal_weight: ``w``, how much the decorrelation counts.
      eps: added to the variances.
      axis_name: the mapped axis over whose devices the batch is spread, or None.
      where: which examples count, bool, broadcastable to ``[N]``; the loss is that of
        the batch of these.

    Returns:
      The loss, a scalar, at least float32; finite on a constant column for ``eps > 0``.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if the shapes differ or the batch has fewer than 2 examples.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> first = jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]])
      >>> second = jnp.array([[2.0, 1.0], [4.0, 0.0], [3.0, 5.0]])
      >>> print(f"{distillation.barlow_twins_loss(first, second):.4e}")
      3.6428e-04

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*,
      ICML 2021.
    """
    views = _centered(first, second, axis_name, where)
    weight, eps = _hyper(views, off_diagonal_weight=off_diagonal_weight, eps=eps)
    standard = []
    for view in (views.first, views.second):
        variance = views.total(jnp.sum(jnp.square(view), axis=0)) / views.count
        standard.append(view * jax.lax.rsqrt(variance + eps)[None])
    correlation = views.total(matmul(standard[0].T, standard[1])) / views.count
    diagonal = jnp.diagonal(correlation)
    on = jnp.sum(jnp.square(diagonal - 1.0))
    return on + weight * jnp.sum(jnp.square(_off_diagonal(correlation)))


@jit(static_argnames=("axis_name",))
def vicreg_loss(
    first: ArrayLike,
    second: ArrayLike,
    *,
    invariance_weight: ArrayLike = 25.0,
    variance_weight: ArrayLike = 25.0,
    covariance_weight: ArrayLike = 1.0,
    eps: ArrayLike = 1e-4,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the VICReg loss of a batch, one number.

    .. math::
        \ell = \frac{\lambda}{ND} \|z_1 - z_2\|^2
          + \frac{\mu}{2D} \sum_{v, j} \max(0, 1 - s_{vj})
          + \frac{\nu}{D} \sum_v \sum_{i \ne j} \operatorname{Cov}(z_v)_{ij}^2

    with :math:`s_{vj} = (\operatorname{Var} z_{vj} + \epsilon)^{1/2}`; variances and
    covariances are over ``N - 1``. A statistic of the batch, so this is a scalar.

    Args:
      first: embeddings of one view, shape ``[N, D]``.
      second: embeddings of the other view, shape ``[N, D]``.
      invariance_weight: ``lambda``, how much the distance of the views counts.
      variance_weight: ``mu``, how much a small spread of a column counts.
      covariance_weight: ``nu``, how much the decorrelation counts.
      eps: added to the variances; with 0 a constant column has the gradient NaN.
      axis_name: the mapped axis over whose devices the batch is spread, or None.
      where: which examples count, bool, broadcastable to ``[N]``; the loss is that of
        the batch of these, at least 2.

    Returns:
      The loss, a scalar, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if the shapes differ or the batch has fewer than 2 examples.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> first = jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]])
      >>> second = jnp.array([[2.0, 1.0], [4.0, 0.0], [3.0, 5.0]])
      >>> print(f"{distillation.vicreg_loss(first, second):.2f}")
      25.50

    References:
      Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization for
      Self-Supervised Learning*, ICLR 2022.
    """
    views = _centered(first, second, axis_name, where)
    invariance, spread, decorrelation, eps = _hyper(
        views,
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
        eps=eps,
    )
    dim = views.first.shape[1]
    squares = views.total(jnp.sum(jnp.square(views.difference)))
    loss = invariance * squares / (views.count * dim)
    freedom = jnp.maximum(views.count - 1.0, 1.0)
    for view in (views.first, views.second):
        covariance = views.total(matmul(view.T, view)) / freedom
        deviation = jnp.sqrt(jnp.diagonal(covariance) + eps)
        loss += spread * jnp.mean(jax.nn.relu(1.0 - deviation)) / 2.0
        loss += decorrelation * jnp.sum(jnp.square(_off_diagonal(covariance))) / dim
    return loss


@jit()
def ntxent_loss(
    first: ArrayLike,
    second: ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the SimCLR loss of each example, the mean over its two views.

    .. math:: \ell_i = \tfrac12 \sum_{v \in \{i, i'\}}
        \Bigl( \log \sum_{u \ne v} e^{\cos(z_v, z_u) / T} - \cos(z_i, z_{i'}) / T \Bigr)

    with ``u`` over all other views of the batch. It is
    :func:`jaxkit.ops.ntxent_loss` of both views under the number of their example.

    Args:
      first: embeddings of one view, of any length, shape ``[N, D]``.
      second: embeddings of the other view, shape ``[N, D]``.
      temperature: ``T``.
      where: which examples count, bool, broadcastable to ``[N]``; the others give 0 and
        no gradient, and are no negatives.

    Returns:
      The loss of each example, shape ``[N]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if the shapes differ or the batch has fewer than 2 examples.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> first = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> second = jnp.array([[1.0, 1.0], [-1.0, 1.0]])
      >>> print(f"{distillation.ntxent_loss(first, second).mean():.4f}")
      0.5360

    References:
      Chen et al., *A Simple Framework for Contrastive Learning of Visual
      Representations*, ICML 2020.
    """
    first, second, mask = _checked(first, second, None, where)
    numbers = jnp.arange(len(first), dtype=jnp.int32)
    losses = labeled_ntxent_loss(
        jnp.concatenate([first, second]),
        jnp.concatenate([numbers, numbers]),
        temperature=temperature,
        where=jnp.concatenate([mask, mask]),
    )
    return jnp.mean(losses.reshape(2, -1), axis=0)


def _checked(
    first: ArrayLike,
    second: ArrayLike,
    axis_name: str | None,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    first, second = checks.floating(first=first, second=second)
    checks.same_shape(first=first, second=second)
    if first.ndim != 2:
        raise ValueError(f"`first` must have 2 axes, got shape {first.shape}.")
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if len(first) * devices < 2:
        raise ValueError(
            f"`first` must hold at least 2 examples, got shape {first.shape}."
        )
    mask = checks.mask("where", where, first.shape[:1])
    dtype = accumulation_dtype(first, second)
    first, second = first.astype(dtype), second.astype(dtype)
    keep = mask[:, None]
    return masked_fill(first, keep), masked_fill(second, keep), mask


def _centered(
    first: ArrayLike,
    second: ArrayLike,
    axis_name: str | None,
    where: ArrayLike | None,
) -> _Views:
    first, second, mask = _checked(first, second, axis_name, where)
    total = lambda x: x if axis_name is None else jax.lax.psum(x, axis_name)
    count = jnp.maximum(total(jnp.sum(mask, dtype=first.dtype)), 1.0)
    mean = lambda z: total(jnp.sum(z, axis=0, keepdims=True)) / count
    centered = lambda z: masked_fill(z - mean(z), mask[:, None])
    return _Views(centered(first), centered(second), first - second, count, total)


def _hyper(views: _Views, **values: ArrayLike) -> tuple[jax.Array, ...]:
    return tuple(value.astype(views.first.dtype) for value in checks.floating(**values))


def _off_diagonal(matrix: jax.Array) -> jax.Array:
    return matrix * (1.0 - jnp.eye(len(matrix), dtype=matrix.dtype))
