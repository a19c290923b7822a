"""Anchored preference optimization."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import hyper, log_ratios
from jaxkit.typing import ArrayLike

__all__ = ["apo_down_loss", "apo_zero_loss"]


@jit()
def apo_zero_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Pushes the chosen answer up and the rejected one down, each by itself.

    .. math:: \ell = 1 - \sigma(\beta a) + \sigma(\beta b)

    with slopes :math:`-\beta \sigma'(\beta a)` in :math:`a` and
    :math:`\beta \sigma'(\beta b)` in :math:`b`. For data better than the policy.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
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
      >>> loss = preference.apo_zero_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.9500

    References:
      D'Oosterlinck et al., *Anchored Preference Optimization and Contrastive
      Revisions: Addressing Underspecification in Alignment*, TACL 2025.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (beta,) = hyper(a, beta=beta)
    loss = jax.nn.sigmoid(-beta * a) + jax.nn.sigmoid(beta * b)
    return masked_fill(loss, where)


@jit()
def apo_down_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Pushes both answers down, the rejected one further.

    .. math:: \ell = \sigma(\beta a) + 1 - \sigma\bigl(\beta (a - b)\bigr)

    with slopes :math:`\beta (\sigma'(\beta a) - \sigma'(m))` in :math:`a` and
    :math:`\beta \sigma'(m)` in :math:`b`, :math:`m = \beta (a - b)`. For data worse than
    the policy.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
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
      >>> loss = preference.apo_down_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.9751

    References:
      D'Oosterlinck et al., *Anchored Preference Optimization and Contrastive
      Revisions: Addressing Underspecification in Alignment*, TACL 2025.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (beta,) = hyper(a, beta=beta)
    loss = jax.nn.sigmoid(beta * a) + jax.nn.sigmoid(-beta * (a - b))
    return masked_fill(loss, where)
