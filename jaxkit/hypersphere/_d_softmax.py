"""D-Softmax: the softmax without competition of pull and push."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._hyperparameters import (
    POSITIVE,
    Hyperparameters,
    Interval,
)
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = ["DSoftmaxConfig", "d_softmax_loss"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DSoftmaxConfig(Hyperparameters):
    """The softmax taken apart into a pull and a push that do not see each other.

    Attributes:
      scale: the factor of the cosines; positive.
      target: the cosine to the own class at which the pull has half its strength.

    Raises:
      ValueError: if a Python number is out of range.
    """

    kind: ClassVar[str] = "softmax"
    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "target": Interval(-1.0, 1.0),
    }

    scale: ScalarLike = 32.0
    target: ScalarLike = 0.9

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the pull to the own class; the push is measured from the logit 0."""
        del num_classes, state, key
        cos = sample.angle.cos
        pull = jax.nn.softplus(self.scale * (self.target - cos))
        return Terms(pull, anchor=jnp.zeros_like(cos))

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * cos


def d_softmax_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ScalarLike = 32.0,
    target: ScalarLike = 0.9,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""A pull to the own class and a push from the others that do not see each other.

    .. math::

        \ell = \log\bigl(1 + e^{s (d - \cos\theta_y)}\bigr)
            + \log\Bigl(1 + \sum_{j \ne y} e^{s \cos\theta_j}\Bigr)

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      scale: the factor :math:`s` of the cosines; positive.
      target: the cosine :math:`d` at which the pull has half its strength.
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
      >>> loss = hypersphere.d_softmax_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      21.236

    References:
      He et al., *Softmax Dissection: Towards Understanding Intra- and Inter-class Objective
      for Embedding Learning*, 2019.
    """
    config = DSoftmaxConfig(scale=scale, target=target)
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)
