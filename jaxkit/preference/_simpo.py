"""Losses of the log-probability per token, without a reference."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import exponent_cut, scaled_expm1
from jaxkit.preference._dpo import smoothed_logistic
from jaxkit.preference._pairs import (
    average_log_probs,
    check_label_smoothing,
    hyper,
)
from jaxkit.typing import ArrayLike

__all__ = ["alphapo_loss", "simpo_loss"]


@jit()
def simpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    beta: ArrayLike = 2.0,
    gamma: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logistic loss of the log-probabilities per token, with a target margin.

    .. math::

        \ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
        m = \beta (A_w - A_l) - \gamma

    with the averages :math:`A = \log \pi / n` over the tokens of an answer.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      beta: the steepness, a positive scalar or broadcastable to ``[...]``. Published
        runs use 2 to 2.5.
      gamma: the target margin, a scalar or broadcastable to ``[...]``. Published runs
        use 0.3 to 1.6.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        between 0 and 1/2.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.simpo_loss(-10.0, -14.0, 5, 8)
      >>> print(f"{loss:.4f}")
      1.7014

    References:
      Meng et al., *SimPO: Simple Preference Optimization with a Reference-Free
      Reward*, NeurIPS 2024, eq. 6.
    """
    checks.positive(beta=beta)
    check_label_smoothing(label_smoothing)
    chosen, rejected = average_log_probs(
        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, where
    )
    beta, gamma, label_smoothing = hyper(
        chosen, beta=beta, gamma=gamma, label_smoothing=label_smoothing
    )
    margin = beta * (chosen - rejected) - gamma
    return masked_fill(smoothed_logistic(margin, label_smoothing), where)


@jit()
def alphapo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    beta: ArrayLike = 2.0,
    gamma: ArrayLike = 1.0,
    alpha: ArrayLike = 0.25,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logistic loss of a power of the probability per token.

    .. math::

        \ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
        m = \beta (R_w - R_l) - \gamma, \qquad R = \frac{1 - e^{-\alpha A}}{\alpha}

    with the averages :math:`A = \log \pi / n`. It is smooth in :math:`\alpha`; at 0 it is
    :func:`simpo_loss`. Exponents are cut at 80 in float32 and at 700 in float64.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      beta: the steepness, a positive scalar or broadcastable to ``[...]``.
      gamma: the target margin, a scalar or broadcastable to ``[...]``.
      alpha: the power, a scalar or broadcastable to ``[...]``; any sign.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        between 0 and 1/2.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.alphapo_loss(-10.0, -14.0, 5, 8, alpha=0.0)
      >>> print(f"{loss:.4f}")
      1.7014

    References:
      Gupta et al., *AlphaPO: Reward Shape Matters for LLM Alignment*, ICML 2025.
    """
    checks.positive(beta=beta)
    check_label_smoothing(label_smoothing)
    chosen, rejected = average_log_probs(
        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, where
    )
    beta, gamma, alpha, label_smoothing = hyper(
        chosen, beta=beta, gamma=gamma, alpha=alpha, label_smoothing=label_smoothing
    )
    rewards = scaled_expm1(
        jnp.stack((chosen, rejected)),
        jnp.stack((-alpha, -alpha)),
        exponent_cut(chosen.dtype),
    )
    margin = beta * (rewards[0] - rewards[1]) - gamma
    return masked_fill(smoothed_logistic(margin, label_smoothing), where)
