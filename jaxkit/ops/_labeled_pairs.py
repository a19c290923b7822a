"""Losses of all pairs of a batch start here: cosines, and who belongs together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops._masking import masked_fill
from jaxkit.ops._numerics import l2_normalize
from jaxkit.typing import ArrayLike

__all__ = ["LabeledPairs", "labeled_pairs", "ntxent_loss"]


class LabeledPairs(NamedTuple):
    """All ordered pairs (anchor, other) of a batch.

    Attributes:
      cos: the cosines, shape ``[N, N]``; 0 for examples that do not count.
      positive: whether the other has the label of the anchor and is not the anchor.
      negative: whether the other has another label. Pairs with an example that does
        not count are neither.
    """

    cos: jax.Array
    positive: jax.Array
    negative: jax.Array


@jit()
def labeled_pairs(
    embeddings: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> LabeledPairs:
    r"""Compares every two examples of a batch: how close, and whether alike.

    .. math::

        c_{ij} = \hat x_i \cdot \hat x_j, \qquad
        P_i = \{ j \ne i : y_j = y_i \}, \qquad N_i = \{ j : y_j \ne y_i \}

    What losses of pairs are written with, see :func:`ntxent_loss`.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      where: which examples count, bool ``[N]``; the others may hold NaN.

    Returns:
      Cosines, at least float32, and the two masks, each ``[N, N]``.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
      >>> pairs = ops.labeled_pairs(x, jnp.array([0, 0, 1]))
      >>> print(pairs.cos[0], pairs.positive[0], pairs.negative[0])
      [1. 0. 0.] [False  True False] [False False  True]
    """
    (embeddings,) = checks.floating(embeddings=embeddings)
    if embeddings.ndim != 2:
        raise ValueError(
            f"`embeddings` must have shape (N, D), got {embeddings.shape}."
        )
    count = embeddings.shape[0]
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {labels.dtype}.")
    if labels.shape != (count,):
        raise ValueError(
            f"`labels` must have shape {(count,)} for `embeddings` of shape "
            f"{embeddings.shape}, got {labels.shape}."
        )
    counted = checks.mask("where", where, (count,)) & (labels >= 0)
    x = l2_normalize(masked_fill(embeddings, counted[:, None]))
    cos = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    both = counted[:, None] & counted[None, :]
    alike = labels[:, None] == labels[None, :]
    others = ~jnp.eye(count, dtype=bool)
    return LabeledPairs(cos, both & alike & others, both & ~alike)


@jit()
def ntxent_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of each positive pair against the negatives of its anchor.

    .. math::

        \ell_i = \frac{1}{|P_i|} \sum_{p \in P_i} \log \Bigl( 1 +
            \sum_{n \in N_i} e^{(c_{in} - c_{ip}) / T} \Bigr)

    with the cosines and sets of :func:`labeled_pairs`. For two views of each example
    give both views the number of the example as the label. If all anchors have equally
    many positives, the mean over anchors is the mean over positive pairs.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      temperature: ``T``, a positive scalar.
      where: which examples count, bool ``[N]``; the others give 0 and no gradient, and
        are in no pair.

    Returns:
      The loss of each anchor ``[N]``, at least float32; 0 for anchors without a
      positive or without a negative.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = ops.ntxent_loss(views, jnp.array([0, 1, 0, 1]), temperature=1.0)
      >>> print(loss)  # log(1 + 2 / e)
      [0.5514447 0.5514447 0.5514447 0.5514447]

    References:
      Chen et al., *A Simple Framework for Contrastive Learning of Visual
      Representations*, ICML 2020, eq. 1.
    """
    checks.positive(temperature=temperature)
    (temperature,) = checks.floating(temperature=temperature)
    checks.broadcastable("temperature", temperature, ())
    cos, positive, negative = labeled_pairs(embeddings, labels, where=where)
    logits = cos / temperature.astype(cos.dtype)
    has_negative = jnp.any(negative, axis=1, keepdims=True)
    # Never a sum over nothing: what stands there instead is masked again below.
    log_sum = jax.nn.logsumexp(
        logits, axis=1, keepdims=True, where=negative | ~has_negative
    )
    pairs = masked_fill(jax.nn.softplus(log_sum - logits), positive & has_negative)
    counts = jnp.maximum(jnp.sum(positive, axis=1, dtype=jnp.int32), 1)
    return jnp.sum(pairs, axis=1) / counts.astype(cos.dtype)
