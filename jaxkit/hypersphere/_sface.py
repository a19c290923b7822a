"""SFace, the function it is the gradient of, and a twin without angles."""

import dataclasses

import jax

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._sface_config import SFaceConfig
from jaxkit.typing import ArrayLike

__all__ = ["sface_cosine_loss", "sface_loss", "sface_potential_loss"]


def _with_form(config: SFaceConfig | None, form: str) -> SFaceConfig:
    return dataclasses.replace(config or SFaceConfig(), form=form)


def sface_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    config: SFaceConfig | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Pulls to the own class and pushes from the others, with sigmoid gates.

    .. math::

        \ell = -\mathrm{sg}[r_{\mathrm{intra}}(\theta_y)] \cos\theta_y
            + \sum_{j \ne y} \mathrm{sg}[r_{\mathrm{inter}}(\theta_j)] \cos\theta_j

    with the gates of :func:`sface_rescale`, which are constants for the derivative
    (:math:`\mathrm{sg}`). The value is negative as a rule, and may rise while the angles
    improve, because a gate closes: watch :func:`sface_potential_loss` instead, which has
    the same gradient. Second derivatives of this one lack those of the gates.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      config: the hyper-parameters; None means the defaults. Its ``form`` is not read.
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
      >>> loss = hypersphere.sface_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      36.950

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    chosen = _with_form(config, "gated")
    return hypersphere_loss(embeddings, class_weights, labels, chosen, where=where)


def sface_potential_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    config: SFaceConfig | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Gives the function whose gradient is that of :func:`sface_loss`.

    .. math::

        \ell = \Phi_{\mathrm{intra}}(\theta_y) + \sum_{j \ne y} \Phi_{\mathrm{inter}}(\theta_j)

    with the potentials :func:`sface_intra_potential` and :func:`sface_inter_potential`.
    It is never negative, falls along the gradient flow, and has true second derivatives:
    for monitoring, line searches and curvature. An entry costs a sum of fourteen terms and
    an exponential more than in :func:`sface_loss`.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      config: the hyper-parameters; None means the defaults. Its ``form`` is not read.
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
      >>> loss = hypersphere.sface_potential_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      15.565

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    chosen = _with_form(config, "potential")
    return hypersphere_loss(embeddings, class_weights, labels, chosen, where=where)


def sface_cosine_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    config: SFaceConfig | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Gives the twin of SFace whose gates are sigmoids of the cosine.

    .. math::

        \ell = \frac{s}{\kappa_a} \log\bigl(1 + e^{\kappa_a (\cos a - \cos\theta_y)}\bigr)
            + \sum_{j \ne y} \frac{s}{\kappa_b}
                \log\bigl(1 + e^{\kappa_b (\cos\theta_j - \cos b)}\bigr), \qquad
        \kappa_a = \frac{k}{\sin a}, \quad \kappa_b = \frac{k}{\sin b}

    An ordinary loss, smooth and convex in the cosines, without arc cosines or stopped
    gradients. Its gates have the angle of half strength and the slope there in common
    with those of SFace, and stay close to them where the gates are sharp.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      config: the hyper-parameters; None means the defaults. Its ``form`` is not read.
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
      >>> loss = hypersphere.sface_cosine_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      15.559

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    chosen = _with_form(config, "cosine")
    return hypersphere_loss(embeddings, class_weights, labels, chosen, where=where)
