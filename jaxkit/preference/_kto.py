"""Kahneman-Tversky optimization: single answers, good or bad."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill, masked_mean
from jaxkit.preference._pairs import hyper, log_ratio, real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["kto_kl_estimate", "kto_loss"]


@jit()
def kto_loss(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    desirable: ArrayLike,
    *,
    kl_estimate: ArrayLike,
    beta: ArrayLike = 0.1,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Loss of single answers, each known to be desirable or not.

    .. math::

        \ell = \begin{cases}
          \lambda_D \bigl(1 - \sigma(\beta (a - z))\bigr) & \text{desirable} \\
          \lambda_U \bigl(1 - \sigma(\beta (z - a))\bigr) & \text{undesirable}
        \end{cases}

    with the log-ratio :math:`a = \log \pi - \log \pi_{\mathrm{ref}}` and the reference
    point :math:`z`, a batch estimate of the KL divergence to the reference. The slope in
    :math:`a` is :math:`\mp \lambda \beta \sigma'(\beta (a - z))`.

    Args:
      logps: log-probability of each answer under the policy, shape ``[...]``.
      ref_logps: log-probability of each answer under the reference; no gradient flows
        into it, and ``-inf`` gives NaN.
      desirable: which answers are good, bool, shape ``[...]``.
      kl_estimate: the reference point :math:`z` in nats, as made by
        :func:`kto_kl_estimate`; a scalar or broadcastable to ``[...]``. No gradient
        flows into it.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      desirable_weight: the weight :math:`\lambda_D`, a scalar or broadcastable to
        ``[...]``.
      undesirable_weight: the weight :math:`\lambda_U`, likewise.
      where: which answers count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``desirable``
        or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps, ref_logps = jnp.array([-10.0, -14.0]), jnp.array([-11.0, -13.0])
      >>> good = jnp.array([True, False])
      >>> loss = preference.kto_loss(logps, ref_logps, good, kl_estimate=0.5)
      >>> print(f"{loss[0]:.4f} {loss[1]:.4f}")
      0.4875 0.4626

    References:
      Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*,
      ICML 2024, eq. 8.
    """
    checks.positive(beta=beta)
    logps, ref_logps = real_arrays(where, logps=logps, ref_logps=ref_logps)
    good = jnp.asarray(desirable)
    if good.dtype != jnp.bool_:
        raise TypeError(f"`desirable` must have dtype bool, got {good.dtype}.")
    checks.same_shape(logps=logps, desirable=good)
    beta, z, gain, penalty = hyper(
        logps,
        beta=beta,
        kl_estimate=kl_estimate,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    reward = beta * (log_ratio(logps, ref_logps) - jax.lax.stop_gradient(z))
    loss = jnp.where(good, gain, penalty) * jax.nn.sigmoid(
        jnp.where(good, -reward, reward)
    )
    return masked_fill(loss, where)


@jit()
def kto_kl_estimate(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Estimates the reference point of the KTO loss from mismatched answers.

    .. math::

        z = \max\Bigl(0, \frac{1}{n} \sum_i
            \log \pi(y_{i}' | x_i) - \log \pi_{\mathrm{ref}}(y_{i}' | x_i)\Bigr)

    where :math:`y_i'` is the answer to *another* prompt of the batch. No gradient flows
    into the estimate.

    Args:
      logps: log-probability of each mismatched answer under the policy, shape
        ``[...]``.
      ref_logps: the same under the reference.
      where: which answers count, bool, broadcastable to ``[...]``.

    Returns:
      A scalar in nats, at least 0 and at least float32; 0 where nothing counts.

    Raises:
      TypeError: if a log-probability is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps, ref_logps = jnp.array([-9.0, -14.0]), jnp.array([-11.0, -13.0])
      >>> print(preference.kto_kl_estimate(logps, ref_logps))
      0.5

    References:
      Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*,
      ICML 2024, section 4.
    """
    logps, ref_logps = real_arrays(where, logps=logps, ref_logps=ref_logps)
    mean = masked_mean(log_ratio(logps, ref_logps), where=where)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))
