"""Direct preference optimization: logistic losses of the margin."""

import jax

from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_scores
from jaxkit.preference._pairs import (
    check_label_smoothing,
    check_positive,
    hyper,
    scaled,
)
from jaxkit.typing import ArrayLike

__all__ = ["dpo_loss", "smoothed_logistic"]


def smoothed_logistic(margin: jax.Array, label_smoothing: jax.Array) -> jax.Array:
    """The logistic loss when a fraction of the labels is taken to be wrong."""
    # (1-e) softplus(-m) + e softplus(m), with softplus(m) = softplus(-m) + m.
    return jax.nn.softplus(-margin) + scaled(label_smoothing, margin)


@jit(static_argnames=("divergence",))
def dpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of the preferences under a Bradley-Terry model.

    .. math::

        \ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
        m = \beta (a - b)

    with the log-ratios :math:`a` and :math:`b` of the chosen and the rejected answer to
    the reference. Its slope is
    :math:`\partial \ell / \partial m = \sigma(m) - (1 - \epsilon)`. A positive
    :math:`\epsilon` gives the conservative form, which stops at a finite margin.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers. Where it is ``-inf`` the loss is
        0 (without label smoothing).
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        between 0 and 1/2.
      divergence: the divergence that holds the policy to the reference, see
        :func:`f_divergence_score`; static.
      divergence_alpha: the order of the divergence ``"alpha"``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient. Leave out pairs of identical answers.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ or ``divergence`` is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> loss = preference.dpo_loss(
      ...     jnp.array([-10.0]), jnp.array([-14.0]), jnp.array([-11.0]), jnp.array([-13.0])
      ... )
      >>> print(loss)
      [0.5981389]

    References:
      Rafailov et al., *Direct Preference Optimization: Your Language Model is Secretly
      a Reward Model*, NeurIPS 2023, eq. 7; Mitchell, *A note on DPO with noisy
      preferences*, 2023, for the label smoothing.
    """
    check_positive(beta=beta)
    check_label_smoothing(label_smoothing)
    a, b = pair_scores(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        divergence=divergence,
        divergence_alpha=divergence_alpha,
        where=where,
    )
    beta, label_smoothing = hyper(a, beta=beta, label_smoothing=label_smoothing)
    return masked_fill(smoothed_logistic(beta * (a - b), label_smoothing), where)
