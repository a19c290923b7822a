"""Alignment and uniformity: two numbers that describe a cloud of embeddings."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import l2_normalize, masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["alignment", "uniformity"]


@jit()
def alignment(
    embeddings: ArrayLike,
    others: ArrayLike,
    *,
    power: ArrayLike = 2.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Distance of the two directions of a positive pair, to a power.

    .. math:: \ell = \| \hat x - \hat x' \|^\alpha

    Args:
      embeddings: vectors of any length, shape ``[..., D]``.
      others: the partner of each, shape ``[..., D]``.
      power: :math:`\alpha`, positive; below 1 the gradient is infinite at distance 0,
        and set to 0 there.
      where: which pairs count, bool ``[...]``; the others give 0 and no gradient.

    Returns:
      The powers of the distances ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if the shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.alignment(jnp.array([3.0, 0.0]), jnp.array([0.0, 1.0])))
      2.0

    References:
      Wang and Isola, *Understanding Contrastive Representation Learning through
      Alignment and Uniformity on the Hypersphere*, ICML 2020, section 4.1.
    """
    checks.positive(power=power)
    embeddings, others, power = checks.floating(
        embeddings=embeddings, others=others, power=power
    )
    checks.same_shape(embeddings=embeddings, others=others)
    checks.axis_size("embeddings", embeddings, -1, 1)
    checks.broadcastable("power", power, ())
    dtype = accumulation_dtype(embeddings, others)
    mask = checks.mask("where", where, embeddings.shape[:-1])
    x, other = (
        l2_normalize(masked_fill(v.astype(dtype), mask[..., None]))
        for v in (embeddings, others)
    )
    squared = jnp.sum(jnp.square(x - other), axis=-1)
    apart = mask & (squared > 0)
    half = jnp.broadcast_to(0.5 * power.astype(dtype), squared.shape)
    return masked_fill(masked_fill(squared, apart, fill=1.0) ** half, apart)


@jit()
def uniformity(
    embeddings: ArrayLike,
    *,
    scale: ArrayLike = 2.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-mean of a Gaussian potential over all pairs of directions.

    .. math:: u = \log \frac{2}{N (N - 1)}
        \sum_{i < j} e^{-t \| \hat x_i - \hat x_j \|^2}

    The smaller, the more evenly the directions cover the sphere. It belongs to the
    batch as a whole: there is one value, ready to be added to a mean loss.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``; a zero vector has cosine 0 to
        all others.
      scale: ``t``, positive.
      where: which examples count, bool ``[N]``; the others are in no pair.

    Returns:
      A scalar, at least float32; 0 if there are fewer than two examples.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if ``embeddings`` is not ``[N, D]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
      >>> print(f"{hypersphere.uniformity(x):.5f}")
      -4.39635

    References:
      Wang and Isola, *Understanding Contrastive Representation Learning through
      Alignment and Uniformity on the Hypersphere*, ICML 2020, section 4.1.
    """
    checks.positive(scale=scale)
    embeddings, scale = checks.floating(embeddings=embeddings, scale=scale)
    if embeddings.ndim != 2:
        raise ValueError(
            f"`embeddings` must have shape (N, D), got {embeddings.shape}."
        )
    checks.broadcastable("scale", scale, ())
    count = embeddings.shape[0]
    mask = checks.mask("where", where, (count,))
    x = l2_normalize(masked_fill(embeddings, mask[:, None]))
    cos = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    pairs = mask[:, None] & mask[None, :] & jnp.tri(count, k=-1, dtype=bool)
    some = jnp.any(pairs)
    logits = -scale.astype(x.dtype) * (2.0 - 2.0 * cos)
    log_sum = jax.nn.logsumexp(logits, where=pairs | ~some)
    number = jnp.maximum(jnp.sum(pairs, dtype=jnp.int32), 1).astype(x.dtype)
    return masked_fill(log_sum - jnp.log(number), some)
