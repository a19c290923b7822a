"""Identification: whose is the nearest embedding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.hypersphere._roc import operating_threshold, share_above
from jaxkit.ops import l2_normalize, labeled_pairs, masked_fill, masked_mean
from jaxkit.typing import ArrayLike

__all__ = [
    "OpenSetDir",
    "one_shot_accuracy",
    "open_set_dir",
    "rank1_accuracy",
]


class OpenSetDir(NamedTuple):
    """An operating point of identification among strangers.

    Attributes:
      rate: share of the probes of known classes that are found: their best match is of
        their class and scores above the threshold.
      threshold: a probe whose best score is ABOVE it counts as known.
      false_positive_rate: the share of the probes of strangers that this lets in.
      resolved: whether there are enough strangers for one of them to be let in.
    """

    rate: jax.Array
    threshold: jax.Array
    false_positive_rate: jax.Array
    resolved: jax.Array


@jit()
def rank1_accuracy(
    embeddings: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""How often the nearest other example is of the same class.

    .. math:: \frac{1}{N} \sum_i [\, y_{j(i)} = y_i \,], \qquad
        j(i) = \arg\max_{j \ne i} \hat x_i \cdot \hat x_j

    Of several that are equally near the first is taken. All pairs are compared at once,
    ``N * N`` numbers.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      labels: integers ``[N]``; examples with a negative one do not count.
      where: which examples count, bool ``[N]``; the others are nobody's neighbor.

    Returns:
      The share, a scalar; 0 if nothing counts.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.2, 1.0]])
      >>> print(hypersphere.rank1_accuracy(x, jnp.array([0, 0, 1, 2])))
      0.5
    """
    cos, positive, negative = labeled_pairs(embeddings, labels, where=where)
    others = positive | negative
    nearest = jnp.argmax(masked_fill(cos, others, fill=-jnp.inf), axis=1)
    hit = jnp.take_along_axis(positive, nearest[:, None], axis=1)[:, 0]
    counted = jnp.asarray(labels) >= 0
    counted &= checks.mask("where", where, counted.shape)
    return masked_mean(hit.astype(cos.dtype), where=counted)


@jit()
def one_shot_accuracy(
    probes: ArrayLike,
    gallery: ArrayLike,
    answers: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""How often the nearest of ``N`` examples, one for each class, is the right one.

    .. math:: \frac{1}{Q} \sum_q [\, \arg\max_n \hat p_q \cdot \hat g_n = a_q \,]

    Args:
      probes: vectors of any length, shape ``[Q, D]``.
      gallery: the examples, vectors of any length, shape ``[N, D]``.
      answers: the row of the gallery that is right, integers ``[Q]``.
      where: which probes count, bool ``[Q]``.

    Returns:
      The share, a scalar; 0 if nothing counts.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> probes = jnp.array([[1.0, 0.1], [0.3, 0.2]])
      >>> print(hypersphere.one_shot_accuracy(probes, jnp.eye(2), jnp.array([0, 1])))
      0.5

    References:
      Lake et al., *Human-level concept learning through probabilistic program
      induction*, Science 2015 (one-shot classification).
    """
    probes, gallery = checks.floating(probes=probes, gallery=gallery)
    _check_matrix("probes", probes)
    checks.shape("gallery", gallery, (None, probes.shape[1]))
    _check_matrix("gallery", gallery)
    answers = _integers("answers", answers, probes.shape[0])
    mask = checks.mask("where", where, answers.shape)
    dtype = accumulation_dtype(probes, gallery)
    probes = masked_fill(probes.astype(dtype), mask[:, None])
    scores = jnp.matmul(
        l2_normalize(probes),
        l2_normalize(gallery.astype(dtype)).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    hit = jnp.argmax(scores, axis=1).astype(answers.dtype) == answers
    return masked_mean(hit.astype(dtype), where=mask)


@jit()
def open_set_dir(
    scores: ArrayLike,
    probe_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    fpir: ArrayLike = 0.01,
    where: ArrayLike | None = None,
) -> OpenSetDir:
    r"""Share of known probes found while few strangers are taken for someone.

    .. math::

        \mathrm{FPIR}(t) = P(\max_j s_{ij} > t \mid i \text{ a stranger}), \qquad
        \mathrm{DIR}(t) = P(y_{j(i)} = y_i,\ s_{i j(i)} > t \mid i \text{ known})

    with the best match ``j(i)``, the first of several. The threshold is chosen as in
    :func:`tar_at_far`: the lowest with a false positive rate of at most ``fpir``.

    Args:
      scores: how alike probes and gallery are, such as cosines, shape ``[P, G]``.
      probe_labels: integers ``[P]``. A probe is a stranger if its label, such as -1, is
        not in the gallery.
      gallery_labels: integers ``[G]``, several examples of a class or one; negative ones
        are left out.
      fpir: the largest share of strangers to take for someone, any shape ``[...]``.
      where: which probes count, bool ``[P]``; the scores of the others may be NaN.

    Returns:
      The operating points ``[...]``. NaN if a score that counts is NaN, or there are no
      strangers or no known probes.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.2]])
      >>> point = hypersphere.open_set_dir(
      ...     scores, jnp.array([0, 1, -1]), jnp.array([0, 1]), fpir=0.0
      ... )
      >>> print(point.rate, point.threshold)
      0.5 0.5

    References:
      Phillips, Grother and Micheals, *Evaluation Methods in Face Recognition*, in
      *Handbook of Face Recognition*, 2nd ed., 2011 (open-set identification).
    """
    checks.within("fpir", fpir, low=0.0, high=1.0)
    scores, fpir = checks.floating(scores=scores, fpir=fpir)
    _check_matrix("scores", scores)
    probe_labels = _integers("probe_labels", probe_labels, scores.shape[0])
    gallery_labels = _integers("gallery_labels", gallery_labels, scores.shape[1])
    mask = checks.mask("where", where, probe_labels.shape)
    scores = masked_fill(scores.astype(accumulation_dtype(scores)), mask[:, None])
    usable = jnp.broadcast_to((gallery_labels >= 0)[None, :], scores.shape)
    alike = usable & (probe_labels[:, None] == gallery_labels[None, :])
    known = jnp.any(alike, axis=1)
    candidates = masked_fill(scores, usable, fill=-jnp.inf)
    match = jnp.argmax(candidates, axis=1)[:, None]
    best = jnp.take_along_axis(candidates, match, axis=1)[:, 0]
    right = jnp.take_along_axis(alike, match, axis=1)[:, 0]

    count = lambda where: jnp.sum(where, dtype=jnp.int32)
    real = lambda number: number.astype(scores.dtype)
    strangers = jnp.sort(masked_fill(best, mask & ~known, fill=jnp.inf))
    found = jnp.sort(masked_fill(best, mask & known & right, fill=jnp.inf))
    num_strangers, num_known = count(mask & ~known), count(mask & known)
    fpir = fpir.astype(scores.dtype)
    threshold = operating_threshold(strangers, num_strangers, fpir)
    share_right = share_above(found, count(mask & known & right), threshold, ties=False)
    hits = jnp.nan_to_num(share_right) * real(count(mask & known & right))
    broken = jnp.any(mask & jnp.any(jnp.isnan(candidates), axis=1))
    undefined = jnp.where(broken | (num_strangers == 0), jnp.nan, 0.0)
    undefined = undefined.astype(scores.dtype)
    return OpenSetDir(
        hits / real(num_known) + undefined,
        threshold + undefined,
        share_above(strangers, num_strangers, threshold, ties=False) + undefined,
        fpir * real(num_strangers) >= 1.0 - 1e-6,
    )


def _check_matrix(name: str, array: jax.Array) -> None:
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"`{name}` must be a matrix, got shape {array.shape}.")


def _integers(name: str, values: ArrayLike, count: int) -> jax.Array:
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {array.dtype}.")
    if array.shape != (count,):
        raise ValueError(f"`{name}` must have shape {(count,)}, got {array.shape}.")
    return array.astype(int)
