"""A loss found by search: logistic and exponential, blended."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_margin
from jaxkit.preference._pairs import hyper
from jaxkit.typing import ArrayLike

__all__ = ["discopop_loss"]


@jit(static_argnames=("divergence",))
def discopop_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    tau: ArrayLike = 0.05,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Blend of the logistic and the exponential loss, weighted by the margin.

    .. math::

        \ell = (1 - w) \log(1 + e^{-m}) + w e^{-m}, \qquad w = \sigma(m / \tau), \qquad
        m = \beta (a - b)

    Not convex: the loss rises over a short stretch of margins around 0.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      tau: the width of the blend, a positive scalar or broadcastable to ``[...]``;
        above 1 the loss of very wrong pairs grows exponentially.
      divergence: the divergence that holds the policy to the reference, see
        :func:`f_divergence_score`; static.
      divergence_alpha: the order of the divergence ``"alpha"``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ or ``divergence`` is unknown.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.discopop_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.8148

    References:
      Lu et al., *Discovering Preference Optimization Algorithms with and for Large
      Language Models*, NeurIPS 2024 (the log-ratio modulated
      loss).
    """
    checks.positive(tau=tau)
    margin = pair_margin(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
        divergence=divergence,
        divergence_alpha=divergence_alpha,
        where=where,
    )
    (tau,) = hyper(margin, tau=tau)
    gate = margin / tau
    logistic = jax.nn.softplus(-margin) * jax.nn.sigmoid(-gate)
    # One exponential, not w times e^-m: that is 0 times infinity for very wrong pairs.
    exponential = jnp.exp(jax.nn.log_sigmoid(gate) - margin)
    return masked_fill(logistic + exponential, where)
