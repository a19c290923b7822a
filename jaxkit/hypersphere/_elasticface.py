"""ElasticFace: margins drawn anew for every sample."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._hyperparameters import (
    NON_NEGATIVE,
    POSITIVE,
    Interval,
    SoftmaxHyperparameters,
    static_field,
)
from jaxkit.hypersphere._margin_config import additive_angle
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = ["ElasticFaceConfig", "elasticface_loss"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ElasticFaceConfig(SoftmaxHyperparameters):
    """Softmax with a margin drawn anew for every sample.

    Attributes:
      scale: the factor of the logits; positive.
      margin: the mean of the margins, at least 0.
      margin_std: their standard deviation, at least 0.
      on: ``"angle"`` adds the margin to the angle, ``"cosine"`` takes it off the cosine;
        static.
      ranked: whether the smallest margins go to the samples closest to their class,
        of the samples on one device where they are spread over several; static.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range or ``on`` is unknown.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": NON_NEGATIVE,
        "margin_std": NON_NEGATIVE,
    }

    scale: ScalarLike = 64.0
    margin: ScalarLike = 0.5
    margin_std: ScalarLike = 0.05
    on: str = static_field("angle")
    ranked: bool = static_field(False)

    def __post_init__(self) -> None:
        checks.one_of("on", self.on, ("angle", "cosine"))
        super().__post_init__()

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class."""
        del state
        if key is None:
            raise TypeError("`key` must be a typed key for random margins, got None.")
        checks.typed_key(key)
        cos = sample.angle.cos
        # The same margins in every precision.
        noise = jax.random.normal(key, cos.shape, jnp.float32).astype(cos.dtype)
        if self.ranked:
            noise = _ranked(noise, jax.lax.stop_gradient(cos), sample.where)
        margin = self.margin + self.margin_std * noise
        on_angle = self.on == "angle"
        target = additive_angle(sample.angle, margin) if on_angle else cos - margin
        return self.softmax_terms(self.scale * target, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * cos


def _ranked(noise: jax.Array, cos: jax.Array, where: jax.Array) -> jax.Array:
    """Gives the samples that count their own draws, the smallest to the closest."""
    smallest_first = jnp.sort(jnp.where(where, noise, jnp.inf))
    closest_first = jnp.argsort(jnp.where(where, -cos, jnp.inf))
    ranked = jnp.zeros_like(noise).at[closest_first].set(smallest_first)
    return jnp.where(where, ranked, jnp.zeros_like(noise))


def elasticface_loss(
    key: Key,
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 64.0,
    margin: ScalarLike = 0.5,
    margin_std: ScalarLike = 0.05,
    on: str = "angle",
    ranked: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""ArcFace or CosFace with a normally distributed margin for each sample.

    .. math::

        \ell = \log\Bigl(e^{z_y} + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr) - z_y, \qquad
        z_y = s \cos(\theta_y + m_i) \ \text{or}\ s (\cos\theta_y - m_i), \quad
        m_i \sim N(m, \sigma^2)

    On the cosine, the mean is 0.35 as a rule; with ranked margins the standard deviation
    is smaller, 0.0175 on the angle and 0.02 on the cosine.

    Args:
      key: a typed random key, for the margins.
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      margin: the mean :math:`m` of the margins, at least 0.
      margin_std: their standard deviation :math:`\sigma`, at least 0.
      on: ``"angle"`` or ``"cosine"``; static.
      ranked: whether the smallest margins go to the samples closest to their class,
        of the samples on one device where they are spread over several; static.
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
      >>> import jax
      >>> key = jax.random.key(0)
      >>> loss = hypersphere.elasticface_loss(key, x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      14.191

    References:
      Boutros et al., *ElasticFace: Elastic Margin Loss for Deep Face Recognition*, CVPR
      Workshops 2022.
    """
    config = ElasticFaceConfig(
        scale=scale, margin=margin, margin_std=margin_std, on=on, ranked=ranked
    )
    return hypersphere_loss(
        embeddings, class_weights, labels, config, key=key, where=where
    )
