"""Circle loss of class weights."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._hyperparameters import (
    NON_NEGATIVE,
    POSITIVE,
    Interval,
    SoftmaxHyperparameters,
)
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = ["CircleClassConfig", "circle_class_loss"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CircleClassConfig(SoftmaxHyperparameters):
    """Softmax whose logits weigh each cosine by how far it is from its optimum.

    Attributes:
      scale: the factor of the logits; positive.
      margin: how far from 1 and 0 the cosines of own and other classes may stay;
        at least 0.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": NON_NEGATIVE,
    }

    scale: ScalarLike = 256.0
    margin: ScalarLike = 0.25

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class."""
        del state, key
        cos = sample.angle.cos
        lack = jax.lax.stop_gradient(jax.nn.relu(1.0 + self.margin - cos))
        logit = self.scale * lack * (cos - (1.0 - self.margin))
        return self.softmax_terms(logit, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        excess = jax.lax.stop_gradient(jax.nn.relu(cos + self.margin))
        return self.scale * excess * (cos - self.margin)


def circle_class_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 256.0,
    margin: ScalarLike = 0.25,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy whose logits weigh each cosine by its distance from the optimum.

    .. math::

        \ell = \log \sum_j e^{z_j} - z_y, \qquad
        \begin{aligned}
            z_y &= \gamma\, \mathrm{sg}[1 + m - \cos\theta_y]_+ (\cos\theta_y - 1 + m) \\
            z_j &= \gamma\, \mathrm{sg}[\cos\theta_j + m]_+ (\cos\theta_j - m)
        \end{aligned}

    where :math:`\mathrm{sg}` holds the weights constant for the derivative. For pairs
    instead of class weights see :func:`circle_pair_loss`.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`\gamma` of the logits; positive.
      margin: the margin :math:`m`, at least 0.
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
      >>> loss = hypersphere.circle_class_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      62.195

    References:
      Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, CVPR
      2020.
    """
    config = CircleClassConfig(scale=scale, margin=margin)
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)
