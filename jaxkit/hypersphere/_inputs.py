"""The arguments that all losses with class weights share, checked and masked."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["Batch", "read_arrays", "read_batch", "read_labels", "refuse_labels"]


class Batch(NamedTuple):
    """Embeddings, class weights and labels, ready for a loss.

    Attributes:
      embeddings: shape ``[batch, dim]``; zeros at samples that do not count.
      class_weights: shape ``[classes, dim]`` or ``[classes, centers, dim]``.
      rows: the class of each sample, shape ``[batch]``; 0 for samples that do not count.
      where: which samples count, shape ``[batch]``.
      unknown: which samples count but name a class that does not exist.
    """

    embeddings: jax.Array
    class_weights: jax.Array
    rows: jax.Array
    where: jax.Array
    unknown: jax.Array


def read_arrays(
    embeddings: ArrayLike, class_weights: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Gives embeddings and class weights in one dtype, at least float32."""
    embeddings, class_weights = checks.floating(
        embeddings=embeddings, class_weights=class_weights
    )
    if embeddings.ndim != 2 or not embeddings.shape[1]:
        raise ValueError(
            f"`embeddings` must have shape (batch, dim), got {embeddings.shape}."
        )
    dim = embeddings.shape[1]
    fits = class_weights.ndim in (2, 3) and class_weights.shape[-1] == dim
    if not fits or not class_weights.size:
        raise ValueError(
            f"`class_weights` must have shape (classes, {dim}) or "
            f"(classes, centers, {dim}) for `embeddings` of shape {embeddings.shape}, "
            f"got {class_weights.shape}."
        )
    dtype = accumulation_dtype(embeddings, class_weights)
    return embeddings.astype(dtype), class_weights.astype(dtype)


def read_labels(labels: ArrayLike, batch_size: int) -> jax.Array:
    """Gives labels as an array, after a check of its dtype and shape."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {labels.dtype}.")
    if labels.shape != (batch_size,):
        raise ValueError(
            f"`labels` must have shape ({batch_size},), one for each row of "
            f"`embeddings`, got {labels.shape}."
        )
    # Wide enough for -1 and for the number of classes.
    with jax.numpy_dtype_promotion("standard"):
        return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def read_batch(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
) -> Batch:
    """Checks the arguments, and puts zeros at the samples that do not count."""
    embeddings, class_weights = read_arrays(embeddings, class_weights)
    labels = read_labels(labels, embeddings.shape[0])
    mask = checks.mask("where", where, labels.shape)
    inside = (labels >= 0) & (labels < class_weights.shape[0])
    counts = mask & inside
    return Batch(
        masked_fill(embeddings, counts[:, None]),
        class_weights,
        jnp.where(counts, labels, jnp.zeros_like(labels)),
        counts,
        mask & ~inside & (labels != -1),
    )


def refuse_labels(labels: ArrayLike, class_weights: ArrayLike) -> None:
    """Raises if a label is known, and neither -1 nor that of a class, masked or not.

    Called outside of any compiled function: inside, no label is known.
    """
    if isinstance(labels, jax.core.Tracer):
        return
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        return
    known = np.asarray(labels)
    num_classes = np.shape(class_weights)[0] if np.ndim(class_weights) else 0
    if known.dtype.kind not in "iu" or not known.size or not num_classes:
        return
    if known.min() < -1 or known.max() >= num_classes:
        raise ValueError(
            f"`labels` must be -1 or lie in [0, {num_classes}), "
            f"got {known.min()} to {known.max()}."
        )
