"""Softmax losses with margins, of the class weights and labels."""

import jax
import numpy as np

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._hyperparameters import (
    MARGIN,
    NON_NEGATIVE,
    check_number,
    known_zero_as_none,
)
from jaxkit.hypersphere._margin_config import MarginConfig
from jaxkit.typing import ArrayLike, ScalarLike

__all__ = [
    "arcface_loss",
    "combined_margin_loss",
    "cosface_loss",
    "normface_loss",
    "subcenter_arcface_loss",
]


def normface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 16.0,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of scaled cosines, without a margin.

    .. math:: \ell = \log \sum_j e^{s \cos\theta_j} - s \cos\theta_y

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines, the inverse temperature; positive.
      label_smoothing: the share :math:`\epsilon` of the target spread over all classes, at
        least 0 and below 1.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 3.0], [4.0, 3.0]])
      >>> loss = hypersphere.normface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      0.026

    References:
      Wang et al., *NormFace: L2 Hypersphere Embedding for Face Verification*, ACM
      Multimedia 2017.
    """
    config = MarginConfig(
        scale=scale, label_smoothing=known_zero_as_none(label_smoothing)
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def cosface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.35,
    filter_threshold: ScalarLike | None = None,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of scaled cosines with a margin on that of the own class.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s (\cos\theta_y - m)

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the margin :math:`m` on the cosine, at least 0.
      filter_threshold: other classes whose cosine is above it get the logit 0, for
        labels that contradict each other; None for no such filter.
      label_smoothing: the share :math:`\epsilon` of the target spread over all classes, at
        least 0 and below 1.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 3.0], [4.0, 3.0]])
      >>> loss = hypersphere.cosface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      7.130

    References:
      Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, CVPR
      2018; Wang et al., *Additive Margin Softmax for Face Verification*, 2018.
    """
    check_number("margin", margin, NON_NEGATIVE)
    config = MarginConfig(
        scale=scale,
        cosine_margin=margin,
        filter_threshold=filter_threshold,
        label_smoothing=known_zero_as_none(label_smoothing),
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def arcface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.5,
    boundary: str = "linear",
    detach_margin: bool = False,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of scaled cosines with a margin on the angle to the own class.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s \cos(\theta_y + m)

    Some trainers leave the margin out of the derivative, whose factor is otherwise
    :math:`\sin(\theta_y + m) / \sin\theta_y`: ``detach_margin`` does so.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the margin :math:`m` in radians, from 0 to below pi/2.
      boundary: what happens where :math:`\theta_y + m` passes pi, where the cosine would
        rise again: ``"linear"`` uses :math:`\cos\theta_y - m \sin m`; ``"easy"`` uses the
        margin only where :math:`\cos\theta_y > 0`; ``"clip"`` stops at pi; ``"none"``
        lets it rise; static.
      detach_margin: whether the derivative is that without a margin; static.
      label_smoothing: the share :math:`\epsilon` of the target spread over all classes, at
        least 0 and below 1.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 3.0], [4.0, 3.0]])
      >>> loss = hypersphere.arcface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      8.835

    References:
      Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, CVPR
      2019.
    """
    check_number("margin", margin, MARGIN)
    config = MarginConfig(
        scale=scale,
        angle_margin=margin,
        boundary=boundary,
        detach_margin=detach_margin,
        label_smoothing=known_zero_as_none(label_smoothing),
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def combined_margin_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    angle_factor: ScalarLike | None = None,
    angle_margin: ScalarLike = 0.3,
    cosine_margin: ScalarLike = 0.2,
    boundary: str = "clip",
    detach_margin: bool = False,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of scaled cosines with up to three margins for the own class.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s \bigl(\cos\min(\pi, m_1 \theta_y + m_2) - m_3\bigr)

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      angle_factor: the factor :math:`m_1` of the angle, at least 1; None for 1.
      angle_margin: the margin :math:`m_2` in radians, from 0 to below pi/2.
      cosine_margin: the margin :math:`m_3` on the cosine, at least 0.
      boundary: what happens past pi: ``"clip"`` as in the equation, ``"none"``, or without
        an ``angle_factor`` also ``"linear"`` and ``"easy"`` as in :func:`arcface_loss`;
        static.
      detach_margin: whether the derivative is that without a margin; static.
      label_smoothing: the share :math:`\epsilon` of the target spread over all classes, at
        least 0 and below 1.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 3.0], [4.0, 3.0]])
      >>> loss = hypersphere.combined_margin_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      10.777

    References:
      Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, CVPR
      2019.
    """
    config = MarginConfig(
        scale=scale,
        angle_factor=angle_factor,
        angle_margin=angle_margin,
        cosine_margin=cosine_margin,
        boundary=boundary,
        detach_margin=detach_margin,
        label_smoothing=known_zero_as_none(label_smoothing),
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def subcenter_arcface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.5,
    boundary: str = "linear",
    detach_margin: bool = False,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""ArcFace with several centers for each class, of which the closest counts.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s \cos(\theta_y + m), \quad \cos\theta_j = \max_k \hat x \cdot \hat w_{jk}

    Samples with a wrong label gather at a center of their own.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, shape ``[classes, centers, dim]``, of any length; three
        centers are usual.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the margin :math:`m` in radians, from 0 to below pi/2.
      boundary: what happens where :math:`\theta_y + m` passes pi, where the cosine would
        rise again: ``"linear"`` uses :math:`\cos\theta_y - m \sin m`; ``"easy"`` uses the
        margin only where :math:`\cos\theta_y > 0`; ``"clip"`` stops at pi; ``"none"``
        lets it rise; static.
      detach_margin: whether the derivative is that without a margin; static.
      label_smoothing: the share :math:`\epsilon` of the target spread over all classes, at
        least 0 and below 1.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 3.0], [4.0, 3.0]])
      >>> w = jnp.eye(2)[:, None, :] * jnp.ones((2, 3, 1))
      >>> loss = hypersphere.subcenter_arcface_loss(x, w, jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      8.835

    References:
      Deng et al., *Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web
      Faces*, ECCV 2020.
    """
    if np.ndim(class_weights) != 3:
        raise ValueError(
            "`class_weights` must have shape (classes, centers, dim), "
            f"got {np.shape(class_weights)}."
        )
    check_number("margin", margin, MARGIN)
    config = MarginConfig(
        scale=scale,
        angle_margin=margin,
        boundary=boundary,
        detach_margin=detach_margin,
        label_smoothing=known_zero_as_none(label_smoothing),
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)
