"""Self-play preference optimization with hard labels."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import hyper, log_ratios
from jaxkit.typing import ArrayLike

__all__ = ["sppo_loss"]


@jit()
def sppo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Squared distances of the two log-ratios to targets of opposite sign.

    .. math::

        \ell = \Bigl(a - \frac{1}{2 \beta}\Bigr)^2 + \Bigl(b + \frac{1}{2 \beta}\Bigr)^2

    with slopes twice the brackets. Large values are normal: the paper takes
    :math:`1 / \beta = 1000`.

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
      >>> loss = preference.sppo_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      32.0000

    References:
      Wu et al., *Self-Play Preference Optimization for Language Model Alignment*,
      ICLR 2025.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (beta,) = hyper(a, beta=beta)
    target = 0.5 / beta
    return masked_fill(jnp.square(a - target) + jnp.square(b + target), where)
