"""Weights of tokens and of answers: length decomposition, on-policy weights."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_mean
from jaxkit.preference._pairs import hyper, real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["length_decomposed_log_probs", "wpo_weights"]


@jit()
def length_decomposed_log_probs(
    token_logps: ArrayLike,
    other_lengths: ArrayLike,
    *,
    alpha: ArrayLike,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Sums token log-probabilities, those past the shorter answer with less weight.

    .. math::

        \log \pi_\alpha(y) = \sum_{t < n} \log \pi_t + \alpha \sum_{t \ge n} \log \pi_t,
        \qquad n = \min(n_w, n_l)

    Applied to both answers of a pair, under the policy and under the reference, and
    then given to any loss, it takes away part of the advantage of being long. At
    :math:`\alpha = 1` it is the plain sum.

    Args:
      token_logps: log-probability of each token, shape ``[..., time]``.
      other_lengths: number of tokens of the other answer of the pair (or of the
        shorter one), integers or reals, shape ``[...]``.
      alpha: the weight of the tokens past the shorter answer, a scalar or
        broadcastable to ``[...]``.
      where: which tokens belong to the answer, bool, broadcastable to
        ``[..., time]``; the others are neither counted nor summed.

    Returns:
      The weighted sum of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``token_logps`` or ``alpha`` is not real, or ``where`` not bool.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> tokens = jnp.array([[-1.0, -2.0, -3.0]])
      >>> lengths = jnp.array([2])
      >>> print(preference.length_decomposed_log_probs(tokens, lengths, alpha=0.5))
      [-4.5]

    References:
      Liu et al., *Length Desensitization in Direct Preference Optimization*, 2024.
    """
    (logps,) = real_arrays(where, token_logps=token_logps)
    checks.min_ndim("token_logps", logps, 1)
    batch = logps.shape[:-1]
    lengths = jnp.asarray(other_lengths)
    checks.broadcastable("other_lengths", lengths, batch)
    lengths = jnp.broadcast_to(lengths, batch)
    (alpha,) = hyper(jnp.zeros(batch, logps.dtype), alpha=alpha)
    mask = jnp.broadcast_to(
        jnp.asarray(True) if where is None else jnp.asarray(where), logps.shape
    )
    position = jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1
    common = position.astype(lengths.dtype) < lengths[..., None]
    return jnp.sum(jnp.where(common, 1.0, alpha[..., None]) * logps, axis=-1)


@jit()
def wpo_weights(
    token_logps: ArrayLike,
    log_sum_sq_probs: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Weighs an answer by how likely the present policy is to give it.

    .. math::

        w(y) = \mathrm{sg}\Bigl[\exp \frac{1}{n} \sum_t
            \Bigl(\log \pi_t - \log \sum_v \pi_t(v)^2\Bigr)\Bigr]

    The inner sum is the probability per token that the policy expects of its own
    samples, so an on-policy answer weighs about 1. Multiply the loss of each pair by
    the weights of both answers. No gradient flows into them.

    Args:
      token_logps: log-probability of each token, shape ``[..., time]``.
      log_sum_sq_probs: the logarithm of the sum of squared probabilities over the
        vocabulary, shape ``[..., time]``; :func:`jaxkit.ops.token_statistics` gives
        both.
      where: which tokens count, bool, broadcastable to ``[..., time]``.

    Returns:
      The weight of each answer, shape ``[...]``, at least float32; 1 where no token
      counts.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> tokens, expected = jnp.array([[-1.0, -2.0]]), jnp.array([[-1.5, -1.5]])
      >>> print(preference.wpo_weights(tokens, expected))
      [1.]

    References:
      Zhou et al., *WPO: Enhancing RLHF with Weighted Preference Optimization*, EMNLP
      2024.
    """
    logps, expected = real_arrays(
        where, token_logps=token_logps, log_sum_sq_probs=log_sum_sq_probs
    )
    checks.min_ndim("token_logps", logps, 1)
    excess = masked_mean(logps - expected, axis=-1, where=where)
    return jax.lax.stop_gradient(jnp.exp(excess))
