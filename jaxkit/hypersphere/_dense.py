"""Any loss with class weights, with all cosines in memory."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.hypersphere._geometry import own_weights, read_sample, scores
from jaxkit.hypersphere._inputs import Batch, read_batch, refuse_labels
from jaxkit.hypersphere._protocol import ClassLoss, Terms, cast_leaves, column
from jaxkit.ops import l2_normalize, masked_fill
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = ["combine", "finish", "hypersphere_loss"]


def combine(terms: Terms, others: jax.Array, is_other: jax.Array) -> jax.Array:
    """Puts a loss together from the terms of samples and those of the other classes."""
    if terms.anchor is None:
        return terms.value + jnp.sum(masked_fill(others, is_other), axis=-1)
    excess = jax.nn.logsumexp(others - terms.anchor[:, None], axis=-1, where=is_other)
    value = terms.value + jax.nn.softplus(excess)
    if terms.smoothing is not None:
        value -= terms.smoothing * jnp.sum(masked_fill(others, is_other), axis=-1)
    return value


def finish(values: jax.Array, batch: Batch) -> jax.Array:
    """Gives 0 to samples that do not count, and NaN to those of an unknown class."""
    return jnp.where(batch.unknown, jnp.nan, masked_fill(values, batch.where))


def hypersphere_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    *,
    state: PyTree = None,
    key: Key | None = None,
    compute_dtype: DTypeLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the loss that a configuration describes.

    .. math::

        \ell_i = v_i + \sum_{j \ne y_i} f(c_{ij}) \qquad \text{or} \qquad
        \ell_i = v_i + \log\Bigl(1 + \sum_{j \ne y_i} e^{z(c_{ij}) - z_{y_i}}\Bigr)

    for separable losses such as SFace, and for those with a softmax over the classes.
    The mean over a batch is ``ops.masked_mean(losses, where=labels >= 0)``. The matrix
    of cosines is built: for many classes there are the streaming and sharded forms.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center of a class
        counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      config: the loss and its hyper-parameters, such as :class:`SFaceConfig` or
        :class:`MarginConfig`. Its numbers are traced.
      state: what an adaptive loss has learned of earlier batches, such as
        :class:`AdaCosState`; None for its start, and for losses without one.
      key: a typed random key, for losses with random margins.
      compute_dtype: the dtype of the factors of the product of embeddings and class
        weights, such as bfloat16; static. None keeps the full precision.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype, or a key is missing.
      ValueError: if shapes do not fit, or a known label, masked or not, or a known
        hyper-parameter is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[0.0, 2.0], [1.0, 1.0]])
      >>> config = hypersphere.MarginConfig.normface(scale=1.0)
      >>> loss = hypersphere.hypersphere_loss(x, jnp.eye(2), jnp.array([1, 0]), config)
      >>> print(f"{loss[0]:.4f} {loss[1]:.4f}")
      0.3133 0.6931
    """
    config.check()
    refuse_labels(labels, class_weights)
    return _hypersphere_loss(
        embeddings, class_weights, labels, config, state, key, where, compute_dtype
    )


@jit(static_argnames=("compute_dtype",))
def _hypersphere_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    state: PyTree,
    key: Key | None,
    where: ArrayLike | None,
    compute_dtype: DTypeLike | None,
) -> jax.Array:
    batch = read_batch(embeddings, class_weights, labels, where)
    dtype, num_classes = batch.embeddings.dtype, batch.class_weights.shape[0]
    config, state = cast_leaves((config, state), dtype)
    x, w = batch.embeddings, batch.class_weights
    if config.normalized:
        x, w = l2_normalize(x), l2_normalize(w)
    own = own_weights(batch, config.normalized)
    sample = read_sample(batch, own, config.normalized)
    terms = config.terms(sample, num_classes, state=state, key=key)
    others = config.other(scores(x, w, compute_dtype), column(terms.context))
    is_other = jnp.arange(num_classes)[None, :] != batch.rows[:, None]
    return finish(combine(terms, others, is_other), batch)
