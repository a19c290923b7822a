"""Verification: how well scores of pairs tell genuine pairs from impostors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = [
    "EqualErrorRate",
    "RocCurve",
    "TarAtFar",
    "auc",
    "equal_error_rate",
    "operating_threshold",
    "read_scores",
    "roc_curve",
    "tar_at_far",
]


class RocCurve(NamedTuple):
    """The points of a ROC curve, from accepting nothing to accepting everything.

    A pair is accepted if its score is at least the threshold. Tied scores, and pairs
    that do not count, repeat a point; no point is left out.

    Attributes:
      false_accept_rate: share of impostor pairs accepted, ascending, ``[N + 1]``.
      true_accept_rate: share of genuine pairs accepted, ascending, ``[N + 1]``.
      threshold: descending from infinity, ``[N + 1]``.
    """

    false_accept_rate: jax.Array
    true_accept_rate: jax.Array
    threshold: jax.Array


class TarAtFar(NamedTuple):
    """An operating point of verification.

    Attributes:
      rate: share of genuine pairs accepted.
      threshold: pairs with a score ABOVE it are accepted.
      false_accept_rate: the share of impostor pairs that this accepts.
      resolved: whether there are enough impostor pairs for one of them to be accepted;
        if not, the threshold is the largest impostor score and the rate a lower bound.
    """

    rate: jax.Array
    threshold: jax.Array
    false_accept_rate: jax.Array
    resolved: jax.Array


class EqualErrorRate(NamedTuple):
    """The point of a ROC curve where both errors are closest.

    Attributes:
      rate: the mean of the two errors there.
      threshold: pairs with a score of at least it are accepted.
    """

    rate: jax.Array
    threshold: jax.Array


class Scores(NamedTuple):
    """Scores sorted in each kind; infinities stand where nothing counts.

    Attributes:
      all: every score, descending, minus infinity last, ``[N]``.
      genuine: ascending, infinity last, ``[N]``.
      impostor: ascending, infinity last, ``[N]``.
      num_genuine: how many of them count.
      num_impostor: how many of them count.
      broken: NaN if a score that counts is NaN, else 0.
    """

    all: jax.Array
    genuine: jax.Array
    impostor: jax.Array
    num_genuine: jax.Array
    num_impostor: jax.Array
    broken: jax.Array


def read_scores(
    scores: ArrayLike, is_genuine: ArrayLike, where: ArrayLike | None
) -> Scores:
    """Checks, flattens and sorts the scores."""
    (scores,) = checks.floating(scores=scores)
    scores = scores.astype(accumulation_dtype(scores))
    if jnp.shape(is_genuine) != scores.shape:
        raise ValueError(
            f"`scores` and `is_genuine` must have the same shape, got {scores.shape} "
            f"and {jnp.shape(is_genuine)}."
        )
    genuine = checks.mask("is_genuine", is_genuine, scores.shape).ravel()
    counts = checks.mask("where", where, scores.shape).ravel()
    scores = scores.ravel()
    is_nan = jnp.any(counts & jnp.isnan(scores))
    # Scores that do not count may be anything: filled before they are compared.
    ascending = lambda kind: jnp.sort(masked_fill(scores, kind, fill=jnp.inf))
    # Whole numbers: float32 has none of the odd ones beyond 2 ** 24.
    number = lambda kind: jnp.sum(kind, dtype=jnp.int32)
    return Scores(
        all=-jnp.sort(-masked_fill(scores, counts, fill=-jnp.inf)),
        genuine=ascending(counts & genuine),
        impostor=ascending(counts & ~genuine),
        num_genuine=number(counts & genuine),
        num_impostor=number(counts & ~genuine),
        broken=jnp.where(is_nan, jnp.nan, 0.0).astype(scores.dtype),
    )


def share_above(
    ascending: jax.Array, number: jax.Array, threshold: jax.Array, *, ties: bool
) -> jax.Array:
    """Gives the share of scores above thresholds, with or without those equal to it."""
    side = "left" if ties else "right"
    below = jnp.searchsorted(ascending, threshold, side=side).astype(jnp.int32)
    # Infinite fillers are above everything, and not counted.
    above = jnp.maximum(number - below, 0)
    return above.astype(ascending.dtype) / number.astype(ascending.dtype)


def operating_threshold(
    ascending: jax.Array, number: jax.Array, rate: jax.Array
) -> jax.Array:
    """Gives the score that at most a share ``rate`` of the scores exceeds."""
    # As many may be accepted; the slack is for products such as 0.29 * 100.
    most = number.astype(rate.dtype)
    slack = 1e-9 + 4.0 * jnp.finfo(rate.dtype).eps * rate * most
    allowed = jnp.floor(rate * most + slack)
    everything = allowed >= most
    allowed = jnp.where(everything, 0, allowed.astype(jnp.int32))
    place = jnp.maximum(number - 1 - allowed, 0)
    value = jnp.take(ascending, place, mode="clip")
    return jnp.where(everything, -jnp.inf, value)


@jit()
def roc_curve(
    scores: ArrayLike, is_genuine: ArrayLike, *, where: ArrayLike | None = None
) -> RocCurve:
    r"""Error rates of verification at every threshold.

    .. math::

        \mathrm{FAR}(t) = \frac{|\{h \ge t\}|}{|\{h\}|}, \qquad
        \mathrm{TAR}(t) = \frac{|\{g \ge t\}|}{|\{g\}|}

    over impostor scores ``h`` and genuine scores ``g``.

    Args:
      scores: how alike the members of each pair are, such as cosines, any shape with
        ``N`` entries.
      is_genuine: whether a pair is of one class, bool, of the same shape.
      where: which pairs count, bool, broadcastable to that shape, such as the part of a
        matrix of cosines above its diagonal.

    Returns:
      The curve, with ``N + 1`` points. NaN if a score that counts is NaN; a kind that
      has no pairs has NaN rates.

    Raises:
      TypeError: if ``scores`` is not real or a mask not bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([0.9, 0.4, 0.6, 0.1])
      >>> is_genuine = jnp.array([True, True, False, False])
      >>> curve = hypersphere.roc_curve(scores, is_genuine)
      >>> print(curve.false_accept_rate, curve.true_accept_rate)
      [0.  0.  0.5 0.5 1. ] [0.  0.5 0.5 1.  1. ]

    References:
      Fawcett, *An introduction to ROC analysis*, Pattern Recognition Letters 2006.
    """
    read = read_scores(scores, is_genuine, where)
    threshold = jnp.concatenate([jnp.full((1,), jnp.inf, read.all.dtype), read.all])
    accept = lambda values, number: share_above(values, number, threshold, ties=True)
    return RocCurve(
        accept(read.impostor, read.num_impostor) + read.broken,
        accept(read.genuine, read.num_genuine) + read.broken,
        threshold,
    )


@jit()
def tar_at_far(
    scores: ArrayLike,
    is_genuine: ArrayLike,
    *,
    far: ArrayLike = 0.01,
    where: ArrayLike | None = None,
) -> TarAtFar:
    r"""Share of genuine pairs accepted while few impostors are.

    .. math::

        \mathrm{TAR} = \frac{|\{g > t\}|}{|\{g\}|}, \qquad
        t = h_{(\lfloor f n \rfloor + 1)}

    where :math:`h_{(1)} \ge h_{(2)} \ge \dots` are the ``n`` impostor scores. It is the
    largest TAR of :func:`roc_curve` with a FAR of at most ``f``, ties included.

    Args:
      scores: how alike the members of each pair are, any shape.
      is_genuine: whether a pair is of one class, bool, of the same shape.
      far: the largest share ``f`` of impostor pairs to accept, any shape ``[...]``.
      where: which pairs count, bool, broadcastable to the shape of ``scores``.

    Returns:
      The operating points ``[...]``. If all impostors may be accepted the rate is 1 at
      the threshold minus infinity. NaN if a score that counts is NaN, or a kind has no
      pairs.

    Raises:
      TypeError: if ``scores`` is not real or a mask not bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([0.9, 0.4, 0.6, 0.1])
      >>> is_genuine = jnp.array([True, True, False, False])
      >>> point = hypersphere.tar_at_far(scores, is_genuine, far=0.5)
      >>> print(point.rate, point.threshold, point.resolved)
      1.0 0.1 True

    References:
      Grother and Ngan, *Face Recognition Vendor Test*, NIST Interagency Report 8009,
      2014 (the rates).
    """
    checks.within("far", far, low=0.0, high=1.0)
    read = read_scores(scores, is_genuine, where)
    (far,) = checks.floating(far=far)
    far = far.astype(read.all.dtype)
    threshold = operating_threshold(read.impostor, read.num_impostor, far)
    num_impostor = read.num_impostor.astype(far.dtype)
    undefined = read.broken + 0.0 * (num_impostor / num_impostor)
    accept = lambda values, number: share_above(values, number, threshold, ties=False)
    return TarAtFar(
        accept(read.genuine, read.num_genuine) + undefined,
        threshold + undefined,
        accept(read.impostor, read.num_impostor) + undefined,
        far * num_impostor >= 1.0 - 1e-6,
    )


@jit()
def auc(
    scores: ArrayLike, is_genuine: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Area under the ROC curve: how often a genuine pair beats an impostor.

    .. math:: \mathrm{AUC} = P(g > h) + \tfrac12 P(g = h)

    Args:
      scores: how alike the members of each pair are, any shape.
      is_genuine: whether a pair is of one class, bool, of the same shape.
      where: which pairs count, bool, broadcastable to that shape.

    Returns:
      The area, a scalar. NaN if a score that counts is NaN, or a kind has no pairs.

    Raises:
      TypeError: if ``scores`` is not real or a mask not bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([0.9, 0.4, 0.4, 0.1])
      >>> print(hypersphere.auc(scores, jnp.array([True, True, False, False])))
      0.875

    References:
      Hanley and McNeil, *The meaning and use of the area under a receiver operating
      characteristic (ROC) curve*, Radiology 1982.
    """
    read = read_scores(scores, is_genuine, where)
    sides = (
        jnp.searchsorted(read.impostor, read.genuine, side=side).astype(jnp.int32)
        for side in ("left", "right")
    )
    real = lambda number: number.astype(read.all.dtype)
    beaten = sum(real(jnp.minimum(below, read.num_impostor)) for below in sides)
    index = jnp.arange(read.genuine.size, dtype=jnp.int32)
    counted = masked_fill(beaten, index < read.num_genuine)
    share = counted / (2.0 * real(read.num_impostor))
    return jnp.sum(share) / real(read.num_genuine) + read.broken


@jit()
def equal_error_rate(
    scores: ArrayLike, is_genuine: ArrayLike, *, where: ArrayLike | None = None
) -> EqualErrorRate:
    r"""Error at the point of the ROC curve where both kinds of error are closest.

    .. math::

        \tfrac12 (\mathrm{FRR}(t) + \mathrm{FAR}(t)), \qquad
        t = \arg\min_t |\mathrm{FRR}(t) - \mathrm{FAR}(t)|, \qquad
        \mathrm{FRR} = 1 - \mathrm{TAR}

    over the thresholds of :func:`roc_curve`, the highest of several that are as good.

    Args:
      scores: how alike the members of each pair are, any shape.
      is_genuine: whether a pair is of one class, bool, of the same shape.
      where: which pairs count, bool, broadcastable to that shape.

    Returns:
      The rate and its threshold, scalars. NaN if a score that counts is NaN, or a kind
      has no pairs.

    Raises:
      TypeError: if ``scores`` is not real or a mask not bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([0.9, 0.8, 0.4, 0.6, 0.2, 0.1])
      >>> is_genuine = jnp.array([True, True, True, False, False, False])
      >>> print(f"{hypersphere.equal_error_rate(scores, is_genuine).rate:.4f}")
      0.3333

    References:
      Fawcett, *An introduction to ROC analysis*, Pattern Recognition Letters 2006.
    """
    curve = roc_curve(scores, is_genuine, where=where)
    misses = 1.0 - curve.true_accept_rate
    best = jnp.argmin(jnp.abs(misses - curve.false_accept_rate))
    rate = 0.5 * (misses[best] + curve.false_accept_rate[best])
    return EqualErrorRate(rate, curve.threshold[best] + 0.0 * rate)
