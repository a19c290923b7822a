"""Contrastive preference optimization: no reference."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._dpo import smoothed_logistic
from jaxkit.preference._pairs import (
    check_label_smoothing,
    hyper,
    real_arrays,
)
from jaxkit.typing import ArrayLike

__all__ = ["cpo_loss"]


@jit()
def cpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logistic loss of the difference of two log-probabilities.

    .. math::

        \ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
        m = \beta (\log \pi_w - \log \pi_l)

    The published objective adds the negative log-likelihood of the chosen answer,
    :func:`sft_loss`, with weight 1.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      beta: the steepness, a positive scalar or broadcastable to ``[...]``.
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
      >>> loss = preference.cpo_loss(-10.0, -14.0)
      >>> print(f"{loss:.4f}")
      0.5130

    References:
      Xu et al., *Contrastive Preference Optimization: Pushing the Boundaries of LLM
      Performance in Machine Translation*, ICML 2024.
    """
    checks.positive(beta=beta)
    check_label_smoothing(label_smoothing)
    chosen, rejected = real_arrays(
        where, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    beta, label_smoothing = hyper(chosen, beta=beta, label_smoothing=label_smoothing)
    loss = smoothed_logistic(beta * (chosen - rejected), label_smoothing)
    return masked_fill(loss, where)
