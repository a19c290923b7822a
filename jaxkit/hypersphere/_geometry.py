"""Cosines to all classes, and the angle to the own class from chords."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.hypersphere._inputs import Batch, read_arrays, read_batch, refuse_labels
from jaxkit.hypersphere._protocol import Sample, TargetAngle
from jaxkit.ops import l2_normalize, safe_norm
from jaxkit.typing import ArrayLike, DTypeLike

__all__ = [
    "chord_angle",
    "cosine_similarity_matrix",
    "own_angle",
    "own_weights",
    "read_sample",
    "scores",
    "target_angle",
]


def scores(
    embeddings: jax.Array, class_weights: jax.Array, compute_dtype: DTypeLike | None
) -> jax.Array:
    """Gives inner products to all classes, of several centers the largest."""
    dtype = accumulation_dtype(embeddings, class_weights)
    if compute_dtype is not None:
        checks.floating(compute_dtype=jnp.zeros((), compute_dtype))
        embeddings = embeddings.astype(compute_dtype)
        class_weights = class_weights.astype(compute_dtype)
    products = jnp.einsum(
        "bd,...d->b...",
        embeddings,
        class_weights,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
    return products if class_weights.ndim == 2 else jnp.max(products, axis=-1)


def chord_angle(unit: jax.Array, own: jax.Array) -> TargetAngle:
    """Gives the angles between unit vectors, row by row, without an arc cosine.

    What is left of one vector beside the other has the sine as its length. Its
    derivative is right where that of ``arccos`` or of ``sqrt(1 - cos^2)`` has lost all
    digits, and 0 where the vectors are parallel and no direction is better than another.
    """
    cos = jnp.sum(unit * own, axis=-1)
    rest = safe_norm(unit - cos[..., None] * own)
    # Nothing is left of a zero vector, which counts as orthogonal to all others.
    empty = (rest == 0) & (cos == 0)
    sin = jnp.where(empty, jnp.ones_like(rest), rest)
    return TargetAngle(cos, sin, jnp.arctan2(sin, cos))


def own_weights(batch: Batch, normalized: bool) -> jax.Array:
    """Gathers the weight of each sample's class, of several centers the closest."""
    own = batch.class_weights[batch.rows]
    if own.ndim == 2:
        return own
    centers = l2_normalize(own) if normalized else own
    closeness = jnp.sum(batch.embeddings[:, None, :] * centers, axis=-1)
    best = jnp.argmax(closeness, axis=-1)
    return jnp.take_along_axis(own, best[:, None, None], axis=1)[:, 0]


def read_sample(batch: Batch, own: jax.Array, normalized: bool) -> Sample:
    """Gives what a loss may know of the samples, from the weights of their classes."""
    norm = safe_norm(batch.embeddings)
    if normalized:
        angle = chord_angle(l2_normalize(batch.embeddings), l2_normalize(own))
    else:
        product = jnp.sum(batch.embeddings * own, axis=-1)
        angle = TargetAngle(product, jnp.zeros_like(norm), jnp.zeros_like(norm))
    return Sample(angle, norm, batch.where)


def own_angle(batch: Batch) -> TargetAngle:
    """Gives the angle of each sample to its own class."""
    own = own_weights(batch, normalized=True)
    return read_sample(batch, own, normalized=True).angle


@jit(static_argnames=("compute_dtype",))
def cosine_similarity_matrix(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    *,
    compute_dtype: DTypeLike | None = None,
) -> jax.Array:
    r"""Gives the cosine of the angle between each embedding and each class weight.

    .. math:: c_{ij} = \frac{x_i \cdot w_j}{\lVert x_i \rVert \lVert w_j \rVert}

    Rounding may take a cosine past 1 by about one unit in the last place of
    ``compute_dtype``. A zero vector has cosine 0 to all others and a zero gradient.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, shape ``[classes, dim]``, of any length; or
        ``[classes, centers, dim]``, where the closest center of a class counts.
      compute_dtype: the dtype of the factors of the product, such as bfloat16; lengths
        and sums stay in float32 or wider. None keeps the full precision.

    Returns:
      The cosines, shape ``[batch, classes]``, at least float32.

    Raises:
      TypeError: if an array is not real and floating.
      ValueError: if the ranks or the last axes do not fit, or there is no class.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[3.0, 4.0]])
      >>> print(hypersphere.cosine_similarity_matrix(x, jnp.eye(2)))
      [[0.6 0.8]]
    """
    embeddings, class_weights = read_arrays(embeddings, class_weights)
    return scores(l2_normalize(embeddings), l2_normalize(class_weights), compute_dtype)


def target_angle(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> TargetAngle:
    r"""Measures the angle of each embedding to the weight of its own class.

    .. math::

        \cos\theta = \hat x \cdot \hat w_y, \qquad
        \sin\theta = \lVert \hat x - \cos\theta\, \hat w_y \rVert, \qquad
        \theta = \operatorname{atan2}(\sin\theta, \cos\theta)

    for the unit vectors :math:`\hat x` and :math:`\hat w_y`. At an angle of 0 or
    :math:`\pi` no direction is better than another, and the gradient is 0.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, shape ``[classes, dim]``, of any length; or
        ``[classes, centers, dim]``, where the closest center of a class counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 for none.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The :class:`TargetAngle`, shape ``[batch]``, at least float32. Samples that do not
      count have a right angle; a traced label out of range has NaN.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit or a known label is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 2.0]])
      >>> angle = hypersphere.target_angle(x, jnp.eye(2), jnp.array([0]))
      >>> print(angle.theta.round(4))
      [0.7854]
    """
    refuse_labels(labels, class_weights)
    return _target_angle(embeddings, class_weights, labels, where)


@jit()
def _target_angle(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
) -> TargetAngle:
    batch = read_batch(embeddings, class_weights, labels, where)
    spoil = lambda leaf: jnp.where(batch.unknown, jnp.nan, leaf)
    return jax.tree.map(spoil, own_angle(batch))
