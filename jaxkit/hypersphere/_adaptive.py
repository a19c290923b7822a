"""AdaCos, CurricularFace, MagFace and AdaFace."""

import jax

from jaxkit.hypersphere._adaptive_config import (
    AdaCosConfig,
    AdaCosState,
    AdaFaceConfig,
    AdaFaceState,
    CurricularFaceConfig,
    CurricularFaceState,
    MagFaceConfig,
)
from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.typing import ArrayLike, ScalarLike

__all__ = ["adacos_loss", "adaface_loss", "curricularface_loss", "magface_loss"]


def adacos_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    state: AdaCosState | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of cosines with a scale that follows the training.

    .. math:: \ell = \log \sum_j e^{s \cos\theta_j} - s \cos\theta_y

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      state: holds the scale :math:`s`; call :func:`adacos_update` before the loss of each
        batch. None for the fixed scale :math:`\sqrt 2 \ln(C - 1)` of :math:`C` classes, at
        least 3.
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
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
      >>> loss = hypersphere.adacos_loss(x, w, jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      0.705

    References:
      Zhang et al., *AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep
      Face Representations*, CVPR 2019.
    """
    config = AdaCosConfig()
    return hypersphere_loss(
        embeddings, class_weights, labels, config, state=state, where=where
    )


def curricularface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.5,
    state: CurricularFaceState | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""ArcFace that stresses hard classes more and more.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{z_j}\Bigr) - z_y, \qquad
        z_j = s \cos\theta_j \cdot \begin{cases}
            T + \cos\theta_j & \cos\theta_j > \cos(\theta_y + m) \\ 1 & \text{else}
        \end{cases}

    with :math:`z_y` of :func:`arcface_loss`.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the margin :math:`m` in radians, from 0 to below pi/2.
      state: holds the running mean :math:`T`; call :func:`curricularface_update` before
        the loss of each batch. None for 0.
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
      >>> loss = hypersphere.curricularface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      0.015

    References:
      Huang et al., *CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
      Recognition*, CVPR 2020.
    """
    config = CurricularFaceConfig(scale=scale, margin=margin)
    return hypersphere_loss(
        embeddings, class_weights, labels, config, state=state, where=where
    )


def magface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    min_norm: ScalarLike = 10.0,
    max_norm: ScalarLike = 110.0,
    min_margin: ScalarLike = 0.45,
    max_margin: ScalarLike = 0.8,
    norm_weight: ScalarLike = 35.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""ArcFace with a margin that grows with the length of the embedding.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y
            + \lambda \Bigl(\frac{n}{u^2} + \frac1n\Bigr), \qquad
        z_y = s \cos(\theta_y + m(n))

    with the length :math:`n` clipped to :math:`[l, u]`, a margin that is linear in it, and
    :math:`z_y = s \cos\theta_y` where :math:`\cos\theta_y \le 0`. The gradient flows
    through the length, which comes to tell how good a sample is.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      min_norm: the lower end :math:`l` of the lengths; positive.
      max_norm: their upper end :math:`u`, above ``min_norm``.
      min_margin: the margin at the lower end in radians, from 0 to below pi/2.
      max_margin: the margin at the upper end.
      norm_weight: the weight :math:`\lambda` of the reward of length. It should be at
        least :math:`s K u^2 l^2 / (u^2 - l^2)` with the slope :math:`K` of the margin.
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
      >>> loss = hypersphere.magface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      9.550

    References:
      Meng et al., *MagFace: A Universal Representation for Face Recognition and Quality
      Assessment*, CVPR 2021.
    """
    config = MagFaceConfig(
        scale=scale,
        min_norm=min_norm,
        max_norm=max_norm,
        min_margin=min_margin,
        max_margin=max_margin,
        norm_weight=norm_weight,
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def adaface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.4,
    concentration: ScalarLike = 0.333,
    eps: ScalarLike = 1e-3,
    state: AdaFaceState | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Margins on angle and cosine set by the quality of a sample.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s \bigl(\cos(\theta_y - m q) - m - m q\bigr)

    with the quality :math:`q = h (n - \mu) / (\sigma + \varepsilon)`, clipped to [-1, 1],
    of the length :math:`n` of the embedding, which is not differentiated. Cosines are
    first clipped to :math:`\pm(1 - \varepsilon)`, and :math:`\theta_y - m q` to
    :math:`[\varepsilon, \pi - \varepsilon]`.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the margin :math:`m`, from 0 to below pi/2.
      concentration: the factor :math:`h` of the standardized length, at least 0.
      eps: the distance :math:`\varepsilon` from the poles; between 0 and 1.
      state: holds the mean :math:`\mu` and standard deviation :math:`\sigma` of lengths;
        call :func:`adaface_update` before the loss of each batch. None for 20 and 100.
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
      >>> loss = hypersphere.adaface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      9.770

    References:
      Kim et al., *AdaFace: Quality Adaptive Margin for Face Recognition*, CVPR 2022.
    """
    config = AdaFaceConfig(
        scale=scale, margin=margin, concentration=concentration, eps=eps
    )
    return hypersphere_loss(
        embeddings, class_weights, labels, config, state=state, where=where
    )
