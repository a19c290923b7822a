"""Nash learning by mirror descent: a policy gradient on its own samples."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.preference._pairs import hyper, log_ratio, real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["nash_md_loss"]


@jit()
def nash_md_loss(
    token_logps: ArrayLike,
    ref_token_logps: ArrayLike,
    preference_probs: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Policy-gradient loss towards the Nash equilibrium of a preference model.

    .. math::

        \ell = \beta \sum_t \mathrm{sg}\bigl[\log \pi_t - \log \pi_{\mathrm{ref},t}\bigr]
               \log \pi_t - \bigl(P - \tfrac{1}{2}\bigr) \log \pi(y), \qquad
        \log \pi(y) = \sum_t \log \pi_t

    on an answer :math:`y` sampled from the policy. :math:`P` is the judged probability
    that :math:`y` beats an answer drawn from the geometric mixture of policy and
    reference, commonly in equal parts.

    Args:
      token_logps: log-probability of each token under the policy, shape
        ``[..., time]``.
      ref_token_logps: the same under the reference; no gradient flows into it.
      preference_probs: the probability :math:`P` of each answer, shape ``[...]``; no
        gradient flows into it.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      where: which tokens count, bool, broadcastable to ``[..., time]``; the others
        change neither value nor gradient.

    Returns:
      The loss of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> tokens, reference = jnp.array([[-1.0, -2.0]]), jnp.array([[-1.5, -1.0]])
      >>> print(preference.nash_md_loss(tokens, reference, jnp.array([0.75])))
      [0.9]

    References:
      Munos et al., *Nash Learning from Human Feedback*, ICML 2024, section 7.
    """
    checks.positive(beta=beta)
    logps, ref_logps = real_arrays(
        where, token_logps=token_logps, ref_token_logps=ref_token_logps
    )
    checks.min_ndim("token_logps", logps, 1)
    (probs,) = checks.floating(preference_probs=preference_probs)
    checks.broadcastable("preference_probs", probs, logps.shape[:-1])
    probs = jax.lax.stop_gradient(probs.astype(logps.dtype))
    (beta,) = hyper(jnp.zeros(logps.shape[:-1], logps.dtype), beta=beta)
    penalty = jnp.sum(
        jax.lax.stop_gradient(log_ratio(logps, ref_logps)) * logps, axis=-1
    )
    return beta * penalty - (probs - 0.5) * jnp.sum(logps, axis=-1)
