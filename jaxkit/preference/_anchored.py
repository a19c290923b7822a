"""Losses of pairs with a term that holds the chosen answer up."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import (
    average_log_probs,
    averages,
    hyper,
    log_ratios,
    real_arrays,
)
from jaxkit.typing import ArrayLike

__all__ = ["dpop_loss", "rpo_loss", "rrhf_loss", "slic_loss"]


@jit()
def dpop_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    weight: ArrayLike = 50.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO that pays for a chosen answer less likely than under the reference.

    .. math:: \ell = -\log \sigma\Bigl(\beta \bigl(a - b - \lambda \max(0, -a)\bigr)\Bigr)

    with the log-ratios :math:`a` and :math:`b` of the chosen and the rejected answer to
    the reference. While the chosen answer has fallen its gradient weighs
    :math:`1 + \lambda` times that of the rejected one; else, and at :math:`a = 0`
    exactly, where training starts, as much.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      weight: the weight :math:`\lambda`, at least 0, a scalar or broadcastable to
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
      >>> loss = preference.dpop_loss(-12.0, -15.0, -11.0, -14.5, beta=0.3, weight=5.0)
      >>> print(f"{loss:.4f}")
      1.8257

    References:
      Pal et al., *Smaug: Fixing Failure Modes of Preference Optimisation with
      DPO-Positive*, 2024, eq. 3.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    beta, weight = hyper(a, beta=beta, weight=weight)
    # relu and not maximum: its slope at a = 0 is 0, not 1/2.
    margin = beta * (a - b - weight * jax.nn.relu(-a))
    return masked_fill(jax.nn.softplus(-margin), where)


@jit()
def rpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO plus the negative log-likelihood of the chosen answer per token.

    .. math:: \ell = -\log \sigma(\beta (a - b)) - \lambda \log \pi_w / n_w

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      weight: the weight :math:`\lambda`, a scalar or broadcastable to ``[...]``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.rpo_loss(-12.0, -15.0, -11.0, -14.5, 8, beta=0.3)
      >>> print(f"{loss:.4f}")
      2.2710

    References:
      Pang et al., *Iterative Reasoning Preference Optimization*, NeurIPS 2024, eq. 1.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (chosen,) = real_arrays(where, chosen_logps=chosen_logps)
    chosen = averages(where, chosen, chosen_lengths=chosen_lengths)
    beta, weight = hyper(a, beta=beta, weight=weight)
    loss = jax.nn.softplus(-beta * (a - b)) - weight * chosen
    return masked_fill(loss, where)


@jit()
def slic_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    weight: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Hinge of the two log-probabilities plus likelihood of the chosen answer.

    .. math:: \ell = \max(0, \delta - \log \pi_w + \log \pi_l) - \lambda \log \pi_w

    Once the margin is met only the likelihood is left.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      margin: the margin :math:`\delta`, a scalar or broadcastable to ``[...]``.
      weight: the weight :math:`\lambda` of the likelihood, likewise.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.slic_loss(-12.0, -12.5, margin=1.2, weight=0.4)
      >>> print(f"{loss:.4f}")
      5.5000

    References:
      Zhao et al., *SLiC-HF: Sequence Likelihood Calibration with Human Feedback*, 2023,
      eq. 1, with the chosen answer as the target of the likelihood.
    """
    chosen, rejected = real_arrays(
        where, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    margin, weight = hyper(chosen, margin=margin, weight=weight)
    loss = jax.nn.relu(margin - chosen + rejected) - weight * chosen
    return masked_fill(loss, where)


@jit()
def rrhf_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Ranks the log-probabilities per token and adds likelihood of the chosen answer.

    .. math:: \ell = \max(0, \log \pi_l / n_l - \log \pi_w / n_w)
       - \lambda \log \pi_w

    Once the chosen answer leads only the likelihood is left. The likelihood is a sum
    over tokens, the ranking an average.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      weight: the weight :math:`\lambda`, a scalar or broadcastable to ``[...]``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.rrhf_loss(-12.0, -10.0, 8, 10, weight=0.1)
      >>> print(f"{loss:.4f}")
      1.7000

    References:
      Yuan et al., *RRHF: Rank Responses to Align Language Models with Human Feedback
      without Tears*, NeurIPS 2023, section 3.
    """
    chosen, rejected = average_log_probs(
        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, where
    )
    (total,) = real_arrays(where, chosen_logps=chosen_logps)
    (weight,) = hyper(total, weight=weight)
    return masked_fill(jax.nn.relu(rejected - chosen) - weight * total, where)
