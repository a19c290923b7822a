"""Losses of pairs within a batch: labels, but no class weights."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import labeled_pairs, masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["circle_pair_loss", "multi_similarity_loss", "supcon_loss"]


def _scalars(like: jax.Array, **values: ArrayLike) -> tuple[jax.Array, ...]:
    """Gives scalar hyper-parameters the dtype of the cosines."""
    out = checks.floating(**values)
    for name, value in zip(values, out, strict=True):
        checks.broadcastable(name, value, ())
    return tuple(value.astype(like.dtype) for value in out)


def _log_sum(logits: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives logsumexp over the pairs of each anchor, and whether it has any."""
    some = jnp.any(where, axis=1)
    # Never a sum over nothing, whose gradient is NaN; the caller masks what comes.
    where = where | ~some[:, None]
    return jax.nn.logsumexp(logits, axis=1, where=where), some


@jit()
def circle_pair_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.4,
    scale: ArrayLike = 80.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Circle loss over the pairs of a batch.

    .. math::

        \ell_i = \log \Bigl( 1 +
            \sum_{p \in P_i} e^{-\gamma \alpha_{ip} (c_{ip} - 1 + m)}
            \sum_{n \in N_i} e^{\gamma \alpha_{in} (c_{in} - m)} \Bigr), \qquad
        \alpha_{ip} = [1 + m - c_{ip}]_+, \quad \alpha_{in} = [c_{in} + m]_+

    with the cosines and sets of :func:`jaxkit.ops.labeled_pairs`. The weights
    :math:`\alpha` are constants for differentiation, so that second derivatives, and
    differences of values, do not belong to the gradient.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      margin: ``m``; pairs aim at ``c > 1 - m`` and ``c < m``.
      scale: :math:`\gamma`, positive. For faces 256 with a margin of 0.25.
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
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
      >>> loss = hypersphere.circle_pair_loss(x, jnp.array([0, 0, 1]), scale=10.0)
      >>> print(loss.round(3))
      [0.059 1.171 0.   ]

    References:
      Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity
      Optimization*, CVPR 2020, eq. 6 to 8.
    """
    checks.positive(scale=scale)
    cos, positive, negative = labeled_pairs(embeddings, labels, where=where)
    margin, scale = _scalars(cos, margin=margin, scale=scale)
    weight_p = jax.lax.stop_gradient(jnp.maximum(1.0 + margin - cos, 0.0))
    weight_n = jax.lax.stop_gradient(jnp.maximum(cos + margin, 0.0))
    pull, has_p = _log_sum(-scale * weight_p * (cos - 1.0 + margin), positive)
    push, has_n = _log_sum(scale * weight_n * (cos - margin), negative)
    return masked_fill(jax.nn.softplus(pull + push), has_p & has_n)


@jit()
def supcon_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Supervised contrastive loss: the log-probability of the own class's examples.

    .. math::

        \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \log
            \frac{e^{c_{ip} / T}}{\sum_{j \ne i} e^{c_{ij} / T}}

    with the cosines and sets of :func:`jaxkit.ops.labeled_pairs`. Unlike in
    :func:`jaxkit.ops.ntxent_loss` the positives compete with each other.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      temperature: ``T``, positive.
      where: which examples count, bool ``[N]``; the others give 0 and no gradient, and
        are in no pair.

    Returns:
      The loss of each anchor ``[N]``, at least float32; 0 for anchors without a
      positive.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = hypersphere.supcon_loss(x, jnp.array([0, 0, 1]), temperature=1.0)
      >>> print(f"{loss[0]:.4f} {loss[2]:.4f}")  # log(1 + 1 / e); no positive
      0.3133 0.0000

    References:
      Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, eq. 2.
    """
    checks.positive(temperature=temperature)
    cos, positive, negative = labeled_pairs(embeddings, labels, where=where)
    (temperature,) = _scalars(cos, temperature=temperature)
    logits = cos / temperature
    log_sum, _ = _log_sum(logits, positive | negative)
    counts = jnp.sum(positive, axis=1, dtype=jnp.int32)
    total = jnp.sum(masked_fill(log_sum[:, None] - logits, positive), axis=1)
    return total / jnp.maximum(counts, 1).astype(cos.dtype)


@jit()
def multi_similarity_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    positive_scale: ArrayLike = 2.0,
    negative_scale: ArrayLike = 50.0,
    base: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Multi-similarity loss over all pairs of a batch, without mining.

    .. math::

        \ell_i = \frac{1}{\alpha} \log \Bigl( 1 +
            \sum_{p \in P_i} e^{-\alpha (c_{ip} - \lambda)} \Bigr)
            + \frac{1}{\beta} \log \Bigl( 1 +
            \sum_{n \in N_i} e^{\beta (c_{in} - \lambda)} \Bigr)

    with the cosines and sets of :func:`jaxkit.ops.labeled_pairs`.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      positive_scale: :math:`\alpha`, positive.
      negative_scale: :math:`\beta`, positive.
      base: the cosine :math:`\lambda` between what is far and what is near.
      where: which examples count, bool ``[N]``; the others give 0 and no gradient, and
        are in no pair.

    Returns:
      The loss of each anchor ``[N]``, at least float32; a sum over nothing gives 0.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
      >>> loss = hypersphere.multi_similarity_loss(x, jnp.array([0, 0, 1]))
      >>> print(f"{loss[0]:.4f} {loss[1]:.4f} {loss[2]:.4f}")
      0.2187 0.3189 0.1001

    References:
      Wang et al., *Multi-Similarity Loss with General Pair Weighting for Deep Metric
      Learning*, CVPR 2019, eq. 15.
    """
    checks.positive(positive_scale=positive_scale, negative_scale=negative_scale)
    cos, positive, negative = labeled_pairs(embeddings, labels, where=where)
    alpha, beta, base = _scalars(
        cos, positive_scale=positive_scale, negative_scale=negative_scale, base=base
    )
    pull, has_p = _log_sum(-alpha * (cos - base), positive)
    push, has_n = _log_sum(beta * (cos - base), negative)
    return (
        masked_fill(jax.nn.softplus(pull), has_p) / alpha
        + masked_fill(jax.nn.softplus(push), has_n) / beta
    )
