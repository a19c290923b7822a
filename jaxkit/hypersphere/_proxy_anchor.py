"""Proxy-Anchor: one term for each class weight instead of one for each sample."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.hypersphere._geometry import scores
from jaxkit.hypersphere._inputs import read_batch, refuse_labels
from jaxkit.ops import l2_normalize, masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["proxy_anchor_loss"]


def proxy_anchor_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ArrayLike = 32.0,
    margin: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Pulls each class weight to its samples and pushes it from all others.

    .. math::

        L = \frac{1}{|\mathcal P|} \sum_{j \in \mathcal P} \log \Bigl( 1 +
            \sum_{i : y_i = j} e^{-\alpha (c_{ij} - \delta)} \Bigr)
            + \frac{1}{C} \sum_j \log \Bigl( 1 +
            \sum_{i : y_i \ne j} e^{\alpha (c_{ij} + \delta)} \Bigr)

    with the classes :math:`\mathcal P` that occur in the batch. The sums run over the
    samples of the batch, so the loss belongs to the batch: every sample that counts has
    the value ``L``, and their mean is ``L``. A batch over several devices is therefore
    not the mean of its parts. There is no configuration of it for
    :func:`hypersphere_loss`, and no streaming or sharded form.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: the proxies, real array, shape ``[classes, dim]``, of any length; or
        ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which is left out.
      scale: the factor :math:`\alpha`, positive.
      margin: :math:`\delta`; aims at cosines above it for the own class, and below its
        negative for the others.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient, and are in no sum.

    Returns:
      The loss of the batch at each sample that counts, shape ``[batch]``, at least
      float32. A traced label that is out of range gives NaN for that sample.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label or hyper-parameter is out of
        range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
      >>> loss = hypersphere.proxy_anchor_loss(x, jnp.eye(2), jnp.array([0, 1]))
      >>> print(f"{loss.mean():.4f}")
      3.2400

    References:
      Kim et al., *Proxy Anchor Loss for Deep Metric Learning*, CVPR 2020, eq. 4.
    """
    checks.positive(scale=scale)
    refuse_labels(labels, class_weights)
    return _proxy_anchor_loss(embeddings, class_weights, labels, scale, margin, where)


@jit()
def _proxy_anchor_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    scale: ArrayLike,
    margin: ArrayLike,
    where: ArrayLike | None,
) -> jax.Array:
    batch = read_batch(embeddings, class_weights, labels, where)
    scale, margin = checks.floating(scale=scale, margin=margin)
    checks.broadcastable("scale", scale, ())
    checks.broadcastable("margin", margin, ())
    cos = scores(
        l2_normalize(batch.embeddings), l2_normalize(batch.class_weights), None
    )
    scale, margin = scale.astype(cos.dtype), margin.astype(cos.dtype)
    num_classes = cos.shape[1]
    own = batch.rows[:, None] == jnp.arange(num_classes, dtype=batch.rows.dtype)[None]
    counts = batch.where[:, None]
    pull, present = _log_of_one_plus_sum(-scale * (cos - margin), own & counts)
    push, _ = _log_of_one_plus_sum(scale * (cos + margin), ~own & counts)
    num_present = jnp.maximum(jnp.sum(present, dtype=jnp.int32), 1)
    loss = jnp.sum(pull) / num_present.astype(cos.dtype) + jnp.sum(push) / num_classes
    values = masked_fill(jnp.broadcast_to(loss, batch.where.shape), batch.where)
    return jnp.where(batch.unknown, jnp.nan, values)


def _log_of_one_plus_sum(
    logits: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives log(1 + sum exp) over the samples for each class; whether it has any."""
    some = jnp.any(where, axis=0)
    # Never a sum over nothing, whose gradient is NaN.
    log_sum = jax.nn.logsumexp(logits, axis=0, where=where | ~some[None, :])
    return masked_fill(jax.nn.softplus(log_sum), some), some
