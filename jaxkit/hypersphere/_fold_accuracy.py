"""Accuracy of verification with a threshold chosen on other pairs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["FoldAccuracy", "fold_accuracy"]


class FoldAccuracy(NamedTuple):
    """Accuracies of verification, one for each fold.

    Attributes:
      accuracy: share of the pairs of the fold told right, ``[num_folds]``.
      threshold: chosen on the other folds, ``[num_folds]``; a pair with a score of at
        least it is accepted.
    """

    accuracy: jax.Array
    threshold: jax.Array


@jit(static_argnames=("num_folds",))
def fold_accuracy(
    scores: ArrayLike, is_genuine: ArrayLike, *, num_folds: int = 10
) -> FoldAccuracy:
    r"""Accuracy on each fold at the threshold that is best on all others.

    .. math::

        a_k = \frac{1}{|F_k|} \sum_{i \in F_k} [\, (s_i \ge t_k) = g_i \,], \qquad
        t_k = \arg\max_t \sum_{i \notin F_k} [\, (s_i \ge t) = g_i \,]

    Thresholds are the scores and infinity, the highest of several that are as good.
    Folds are consecutive, equally many pairs each, up to one.

    Args:
      scores: how alike the members of each pair are, ``[N]``.
      is_genuine: whether a pair is of one class, bool ``[N]``.
      num_folds: how many folds, at least 2 and at most ``N``; static.

    Returns:
      Accuracies and thresholds; what is published is the mean of the accuracies. NaN
      if a score is NaN.

    Raises:
      TypeError: if ``scores`` is not real or ``is_genuine`` not bool.
      ValueError: if the shapes do not fit or ``num_folds`` is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> scores = jnp.array([0.9, 0.1, 0.8, 0.2])
      >>> is_genuine = jnp.array([True, False, True, False])
      >>> folds = hypersphere.fold_accuracy(scores, is_genuine, num_folds=2)
      >>> print(folds.accuracy, folds.threshold)
      [1.  0.5] [0.8 0.9]

    References:
      Huang et al., *Labeled Faces in the Wild: A Database for Studying Face Recognition
      in Unconstrained Environments*, 2007 (view 2).
    """
    (scores,) = checks.floating(scores=scores)
    if scores.ndim != 1:
        raise ValueError(f"`scores` must have shape (N,), got {scores.shape}.")
    if jnp.shape(is_genuine) != scores.shape:
        raise ValueError(
            f"`scores` and `is_genuine` must have the same shape, got {scores.shape} "
            f"and {jnp.shape(is_genuine)}."
        )
    checks.at_least("num_folds", num_folds, 2)
    checks.axis_size("scores", scores, 0, num_folds)
    genuine = checks.mask("is_genuine", is_genuine, scores.shape)
    scores, count = scores.astype(accumulation_dtype(scores)), scores.size

    order = jnp.argsort(-scores)
    ordered = scores[order]
    fold = order * num_folds // count
    in_fold = fold[None, :] == jnp.arange(num_folds)[:, None]
    # Accepting one more pair is worth +1 if it is genuine and -1 if not: right answers
    # by number of accepted pairs, in each fold.
    worth = jnp.where(in_fold, jnp.where(genuine[order], 1, -1)[None, :], 0)
    rejected = jnp.sum(in_fold & ~genuine[order][None, :], axis=1, keepdims=True)
    steps = jnp.pad(jnp.cumsum(worth, axis=1), ((0, 0), (1, 0)))
    # Those with tied scores are accepted together.
    accepted = jnp.searchsorted(-ordered, -ordered, side="right")
    accepted = jnp.concatenate([jnp.zeros_like(accepted[:1]), accepted])
    right = (steps + rejected)[:, accepted]
    best = jnp.argmax(jnp.sum(right, axis=0, keepdims=True) - right, axis=1)
    number = jnp.sum(in_fold, axis=1).astype(scores.dtype)
    chosen = jnp.take_along_axis(right, best[:, None], axis=1)[:, 0]
    thresholds = jnp.concatenate([jnp.full((1,), jnp.inf, scores.dtype), ordered])
    broken = jnp.where(jnp.any(jnp.isnan(scores)), jnp.nan, 0.0).astype(scores.dtype)
    accuracy = chosen.astype(scores.dtype) / number + broken
    return FoldAccuracy(accuracy, thresholds[best] + broken)
