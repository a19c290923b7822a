"""The softmax over plain inner products, which all the others build on."""

import dataclasses
from typing import ClassVar

import jax

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._hyperparameters import (
    SoftmaxHyperparameters,
    known_zero_as_none,
)
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = ["SoftmaxConfig", "softmax_loss"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxConfig(SoftmaxHyperparameters):
    """Softmax over plain inner products, of vectors of any length.

    Attributes:
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    normalized: ClassVar[bool] = False

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
        return self.softmax_terms(sample.angle.cos, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes: the inner products themselves."""
        del context
        return cos


def softmax_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: ScalarLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of plain inner products, of vectors of any length.

    .. math:: \ell = \log \sum_j e^{x \cdot w_j} - x \cdot w_y

    A bias of each class is one more column of ``class_weights``, beside a constant 1 at
    the end of each embedding.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
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
      >>> loss = hypersphere.softmax_loss(x, jnp.eye(2), jnp.array([1, 0]))
      >>> print(f"{loss.mean():.3f}")
      0.313

    References:
      Liu et al., *Large-Margin Softmax Loss for Convolutional Neural Networks*, ICML 2016.
    """
    config = SoftmaxConfig(label_smoothing=known_zero_as_none(label_smoothing))
    return hypersphere_loss(embeddings, class_weights, labels, config, where=where)
