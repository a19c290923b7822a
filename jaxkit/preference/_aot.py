"""Alignment by optimal transport: stochastic dominance over a batch."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.preference._dpo import smoothed_logistic
from jaxkit.preference._pairs import (
    check_label_smoothing,
    hyper,
    log_ratio,
    real_arrays,
)
from jaxkit.typing import ArrayLike

__all__ = ["aot_loss"]


@jit(static_argnames=("paired",))
def aot_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    paired: bool = True,
) -> jax.Array:
    r"""Logistic loss between the sorted quantiles of two distributions.

    .. math::

        \ell_i = -(1 - \epsilon) \log \sigma(m_i) - \epsilon \log \sigma(-m_i), \qquad
        m_i = \beta (u_{(i)} - v_{(i)})

    over the batch, the last axis. Paired, :math:`u` holds the differences
    :math:`\log \pi_w - \log \pi_l` and :math:`v` those of the reference; unpaired,
    :math:`u` holds the log-ratios of chosen answers and :math:`v` those of rejected ones,
    which need not share a prompt. Entry :math:`i` is the i-th smallest quantile, not pair
    :math:`i`: a mask or weights for single pairs have no meaning here.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[..., batch]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[..., batch]``.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        between 0 and 1/2.
      paired: whether the two answers of an entry belong together; static.

    Returns:
      The loss of each quantile, shape ``[..., batch]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real.
      ValueError: if shapes differ, or there is no batch axis.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps = (jnp.array([x, x - 1.0]) for x in (-10.0, -14.0, -11.0, -13.0))
      >>> loss = preference.aot_loss(*logps)
      >>> print(f"{loss[0]:.4f} {loss[1]:.4f}")
      0.5981 0.5981

    References:
      Melnyk et al., *Distributional Preference Alignment of LLMs via Optimal
      Transport*, NeurIPS 2024.
    """
    checks.positive(beta=beta)
    check_label_smoothing(label_smoothing)
    chosen, rejected, ref_chosen, ref_rejected = real_arrays(
        None,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    checks.min_ndim("chosen_logps", chosen, 1)
    if paired:
        # Through log_ratio against 0, for its treatment of the reference.
        zero = jnp.zeros_like(chosen)
        u = chosen - rejected
        v = log_ratio(zero, ref_rejected) - log_ratio(zero, ref_chosen)
    else:
        u = log_ratio(chosen, ref_chosen)
        v = log_ratio(rejected, ref_rejected)
    beta, label_smoothing = hyper(u, beta=beta, label_smoothing=label_smoothing)
    margin = beta * (jnp.sort(u, axis=-1) - jnp.sort(v, axis=-1))
    return smoothed_logistic(margin, label_smoothing)
