"""SphereFace and SphereFace2."""

import jax

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._sphereface_config import SphereFace2Config, SphereFaceConfig
from jaxkit.typing import ArrayLike, ScalarLike

__all__ = ["sphereface2_loss", "sphereface_loss"]


def sphereface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike | None = None,
    margin: ScalarLike = 4.0,
    annealing: ScalarLike = 5.0,
    detach_margin: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy with a factor on the angle to the own class.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s\,\frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}

    with :math:`\psi(\theta) = (-1)^q \cos m\theta - 2q`,
    :math:`q = \lfloor m\theta/\pi \rfloor`, and as :math:`s` the length of each
    embedding. The revised form is ``scale=30, margin=1.7, annealing=0,
    detach_margin=True``.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines, positive; None for the length of each
        embedding.
      margin: the factor :math:`m` of the angle, at least 1.
      annealing: the weight :math:`\lambda` of the plain cosine, at least 0; it starts
        high and ends at 5: see :func:`sphereface_annealing`.
      detach_margin: whether the derivative is that without a margin; static.
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
      >>> loss = hypersphere.sphereface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      0.775

    References:
      Liu et al., *SphereFace: Deep Hypersphere Embedding for Face Recognition*, CVPR
      2017; Liu et al., *SphereFace Revived: Unifying Hyperspherical Face Recognition*,
      TPAMI 2022.
    """
    config = SphereFaceConfig(
        scale=scale, margin=margin, annealing=annealing, detach_margin=detach_margin
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)


def sphereface2_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 40.0,
    margin: ScalarLike = 0.4,
    positive_weight: ScalarLike = 0.7,
    exponent: ScalarLike = 3.0,
    loss_weight: ScalarLike = 50.0,
    bias: ScalarLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""A logistic loss of each class on its own, with a learned bias.

    .. math::

        \ell = \frac{l_w}{r} \Bigl[\alpha \log(1 + e^{-u_y})
            + (1 - \alpha) \sum_{j \ne y} \log(1 + e^{u_j})\Bigr], \qquad
        \begin{aligned}
            u_y &= r (g(\cos\theta_y) - m) + \beta \\
            u_j &= r (g(\cos\theta_j) + m) + \beta
        \end{aligned}

    with :math:`g(c) = 2 ((c + 1)/2)^\tau - 1`, whose derivative is taken to be that of
    :math:`c`. No class competes with another.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`r` of the cosines; positive.
      margin: the margin :math:`m` between own and other classes, at least 0.
      positive_weight: the weight :math:`\alpha` of the own class, between 0 and 1.
      exponent: the power :math:`\tau` of the similarity; positive.
      loss_weight: the factor :math:`l_w` of the whole loss; positive.
      bias: the bias :math:`\beta`, a parameter to be trained; None for
        :func:`sphereface2_initial_bias`.
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
      >>> loss = hypersphere.sphereface2_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      23.084

    References:
      Wen et al., *SphereFace2: Binary Classification is All You Need for Deep Face
      Recognition*, ICLR 2022.
    """
    config = SphereFace2Config(
        scale=scale,
        margin=margin,
        positive_weight=positive_weight,
        exponent=exponent,
        loss_weight=loss_weight,
        bias=bias,
    )
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)
