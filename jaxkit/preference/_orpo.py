"""Odds ratio preference optimization."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import average_log_probs, hyper
from jaxkit.typing import ArrayLike

__all__ = ["odds_ratio_loss", "orpo_loss"]


_SMALLEST = 1e-6
"""At a rejected probability of exactly 1 the loss is infinite: stop just before."""


def _log_expm1(u: jax.Array) -> jax.Array:
    """Gives log(exp(u) - 1) for positive u."""
    return u + jax.nn.log1mexp(u)


def _odds_ratio(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    # In u = -A the odds are 1 / expm1(u), so the loss is
    # log(1 + expm1(u_w) / expm1(u_l)).
    # where and not maximum: at u_w = 0 the slope is whole, not halved.
    u_w = jnp.where(chosen > 0, 0.0, -chosen)
    log_odds = -_log_expm1(jnp.maximum(-rejected, _SMALLEST))
    # A probability near 1 has expm1(u_w) near 0 and no logarithm: take the quotient.
    near = u_w <= 1.0
    quotient = jnp.log1p(jnp.expm1(jnp.where(near, u_w, 1.0)) * jnp.exp(log_odds))
    far = jax.nn.softplus(_log_expm1(jnp.where(near, 1.0, u_w)) + log_odds)
    return jnp.where(near, quotient, far)


@jit()
def odds_ratio_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative log-sigmoid of the log odds ratio of the two answers.

    .. math::

        \ell = -\log \sigma\Bigl(\log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l}\Bigr)
             = \log\Bigl(1 + \frac{e^{-A_w} - 1}{e^{-A_l} - 1}\Bigr)

    with :math:`A = \log \pi / n` and :math:`p = e^{A}`, the probability per token. At
    :math:`A_w = 0` the loss is 0 and its slope in :math:`A_w` is
    :math:`-e^{A_l} / (1 - e^{A_l})`. Only :math:`A_l = 0` is infinite: :math:`-A_l` is
    taken to be at least 1e-6.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ or lengths are missing.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.odds_ratio_loss(-10.0, -14.0, 5, 8)
      >>> print(f"{loss:.4f}")
      0.8518

    References:
      Hong et al., *ORPO: Monolithic Preference Optimization without Reference Model*,
      EMNLP 2024, eq. 7.
    """
    chosen, rejected = average_log_probs(
        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, where
    )
    return masked_fill(_odds_ratio(chosen, rejected), where)


@jit()
def orpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    weight: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of the chosen answer plus the odds ratio loss.

    .. math:: \ell = -A_w + \lambda \ell_{\mathrm{OR}}

    with :math:`A_w = \log \pi_w / n_w` and :func:`odds_ratio_loss`.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      weight: the weight :math:`\lambda`, a scalar or broadcastable to ``[...]``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ or lengths are missing.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.orpo_loss(-10.0, -14.0, 5, 8)
      >>> print(f"{loss:.4f}")
      2.0852

    References:
      Hong et al., *ORPO: Monolithic Preference Optimization without Reference Model*,
      EMNLP 2024, eq. 6.
    """
    chosen, rejected = average_log_probs(
        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, where
    )
    (weight,) = hyper(chosen, weight=weight)
    return masked_fill(weight * _odds_ratio(chosen, rejected) - chosen, where)
