"""The loss of single answers applied to both answers of a pair."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.preference._kto import kto_loss
from jaxkit.preference._pairs import real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["paired_kto_loss"]


@jit()
def paired_kto_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    kl_estimate: ArrayLike,
    beta: ArrayLike = 0.1,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Kahneman-Tversky loss of the chosen answer plus that of the rejected one.

    .. math:: \ell = \lambda_D \bigl(1 - \sigma(\beta (a - z))\bigr)
       + \lambda_U \bigl(1 - \sigma(\beta (z - b))\bigr)

    with the log-ratios :math:`a` and :math:`b` to the reference and the reference point
    :math:`z`. Unlike DPO it pushes the two answers independently, see :func:`kto_loss`.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      kl_estimate: the reference point :math:`z` in nats, see :func:`kto_kl_estimate`; a
        scalar or broadcastable to ``[...]``. No gradient flows into it.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      desirable_weight: the weight :math:`\lambda_D`, a scalar or broadcastable to
        ``[...]``.
      undesirable_weight: the weight :math:`\lambda_U`, likewise.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.paired_kto_loss(-12.0, -15.0, -11.0, -14.5, kl_estimate=0.0)
      >>> print(f"{loss:.4f}")
      1.0125

    References:
      Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*,
      ICML 2024, eq. 8.
    """
    chosen, rejected, ref_chosen, ref_rejected = real_arrays(
        where,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )

    def side(logps: jax.Array, ref_logps: jax.Array, good: bool) -> jax.Array:
        return kto_loss(
            logps,
            ref_logps,
            jnp.full(logps.shape, good),
            kl_estimate=kl_estimate,
            beta=beta,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
            where=where,
        )

    return side(chosen, ref_chosen, True) + side(rejected, ref_rejected, False)
