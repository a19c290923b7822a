"""What a loss with class weights provides, so that it also streams and shards.

Every such loss has the form

    separable   value_i + sum_{j != y_i} other(c_ij)
    softmax     value_i + log(1 + sum_{j != y_i} exp(other(c_ij) - anchor_i))
                        - smoothing * sum_{j != y_i} other(c_ij)

where ``value``, ``anchor``, ``smoothing`` depend on the sample and its own class alone,
and ``other`` is elementwise in the cosine to another class and a few numbers of the
sample. Whoever evaluates a loss (all classes at once, in slices, on several devices)
needs nothing else; slopes come from differentiating the two methods.
"""

from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxkit.typing import DTypeLike, Key, PyTree

__all__ = ["ClassLoss", "Sample", "TargetAngle", "Terms", "cast_leaves", "column"]


class TargetAngle(NamedTuple):
    """The angle of each embedding to the weight of its own class.

    Attributes:
      cos: its cosine, shape ``[batch]``.
      sin: its sine, the length of what is left of the unit embedding beside the
        class weight; accurate where the cosine is near 1.
      theta: the angle in radians, from 0 to pi.
    """

    cos: jax.Array
    sin: jax.Array
    theta: jax.Array


class Sample(NamedTuple):
    """What a loss may know of a sample besides its cosines to other classes.

    Attributes:
      angle: to the own class. For a loss that is not ``normalized`` the field ``cos``
        is the plain inner product, and the others mean nothing.
      norm: length of the raw embedding, shape ``[batch]``.
      where: which samples count, shape ``[batch]``; the others hold harmless numbers.
    """

    angle: TargetAngle
    norm: jax.Array
    where: jax.Array


class Terms(NamedTuple):
    """The part of a loss that one sample and its own class decide.

    Attributes:
      value: what is added to the loss, shape ``[batch]``; 0 for a plain softmax.
      context: numbers of each sample that ``other`` reads, a pytree of ``[batch]``
        arrays; gradients flow into them.
      anchor: the logit that the others are measured against, as a rule that of the
        own class, shape ``[batch]``; None for separable losses. Taking it off inside
        the logarithm keeps the digits of a small loss: ``value`` does not hold it.
      smoothing: factor of the sum of the other logits, a scalar; None for 0.
    """

    value: jax.Array
    context: PyTree = ()
    anchor: jax.Array | None = None
    smoothing: jax.Array | None = None


class ClassLoss(Protocol):
    """A loss with class weights: a frozen dataclass of hyper-parameters, a pytree.

    Attributes:
      kind: ``"separable"`` or ``"softmax"``.
      normalized: whether the loss sees cosines; otherwise plain inner products of
        raw embeddings and raw class weights.
    """

    kind: ClassVar[str]
    normalized: ClassVar[bool]

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the terms of the samples; differentiable in the leaves of ``sample``."""
        ...

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the value or the logit of other classes, elementwise.

        ``cos`` has shape ``[batch, classes]`` and may leave [-1, 1] by rounding;
        ``context`` is that of :class:`Terms` with one more axis, ``[batch, 1]``.
        """
        ...

    def active_cosine(self, eps: jax.Array) -> jax.Array:
        """Gives the cosine below which another class has a slope under ``eps * scale``.

        Minus infinity where no bound is known. Of separable losses; others ignore it.
        """
        ...

    def check(self) -> None:
        """Raises ``ValueError`` on a hyper-parameter that is known and out of range."""
        ...


def column(context: PyTree) -> PyTree:
    """Gives the leaves of a context the axis of the classes."""
    return jax.tree.map(lambda leaf: leaf[..., None], context)


def cast_leaves(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Gives hyper-parameters or a state the dtype in which a loss is evaluated."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
