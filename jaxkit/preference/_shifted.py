"""DPO with a margin corrected for length, or a lighter rejected answer."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import (
    hyper,
    log_ratios,
    token_counts,
)
from jaxkit.typing import ArrayLike

__all__ = ["dpo_shift_loss", "r_dpo_loss"]


@jit()
def r_dpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    length_weight: ArrayLike = 0.2,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO that takes length out of the implicit reward.

    .. math:: \ell = -\log \sigma\bigl(\beta (a - b) + \alpha (n_w - n_l)\bigr)

    A longer chosen answer counts as won already to that extent, so it is pushed less.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      length_weight: the weight :math:`\alpha` of a token, a scalar or broadcastable to
        ``[...]``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.r_dpo_loss(
      ...     -12.0, -15.0, -11.0, -14.5, 8, 10, beta=0.3, length_weight=0.02
      ... )
      >>> print(f"{loss:.4f}")
      0.7927

    References:
      Park et al., *Disentangling Length from Quality in Direct Preference Optimization*,
      Findings of ACL 2024, eq. 9.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    longer = token_counts(where, a, chosen_lengths=chosen_lengths) - token_counts(
        where, b, rejected_lengths=rejected_lengths
    )
    beta, length_weight = hyper(a, beta=beta, length_weight=length_weight)
    margin = beta * (a - b) + length_weight * longer
    return masked_fill(jax.nn.softplus(-margin), where)


@jit()
def dpo_shift_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    rejected_weight: ArrayLike = 0.75,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO whose rejected answer weighs less.

    .. math:: \ell = -\log \sigma(\beta a - \lambda \beta b)

    With :math:`\lambda < 1` the chosen answer is pushed up :math:`1 / \lambda` times as
    hard as the rejected one is pushed down, at the price of a smaller margin.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      rejected_weight: the weight :math:`\lambda`, in (0, 1], a scalar or broadcastable
        to ``[...]``; a schedule may raise it.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.dpo_shift_loss(
      ...     -12.0, -15.0, -11.0, -14.5, beta=0.3, rejected_weight=0.6
      ... )
      >>> print(f"{loss:.4f}")
      0.8036

    References:
      Yang et al., *DPO-Shift: Shifting the Distribution of Direct Preference
      Optimization*, 2025.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    beta, weight = hyper(a, beta=beta, rejected_weight=rejected_weight)
    return masked_fill(jax.nn.softplus(-beta * (a - weight * b)), where)
