"""Exact answers for policies that are tables: optima, values, population losses."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.preference._pairs import hyper, real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["optimal_policy", "selm_population_loss", "selm_value_gap"]


@jit()
def optimal_policy(
    reward: ArrayLike, ref_log_probs: ArrayLike, *, beta: ArrayLike
) -> jax.Array:
    r"""Solves the inner problem: the best policy near a reference for one reward.

    .. math::

        \pi_r = \arg\max_\pi E_\pi[r] - \beta \, \mathrm{KL}(\pi \,\|\,
        \pi_{\mathrm{ref}}) = \frac{\pi_{\mathrm{ref}} \, e^{r / \beta}}{Z_r}

    Args:
      reward: reward of each answer, shape ``[..., num_answers]``.
      ref_log_probs: log-probability of each answer under the reference, of the same
        shape; ``-inf`` excludes an answer.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.

    Returns:
      Log-probabilities, shape ``[..., num_answers]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> ref = jnp.log(jnp.array([0.5, 0.5]))
      >>> log_probs = preference.optimal_policy(jnp.array([1.0, 0.0]), ref, beta=1.0)
      >>> print(jnp.exp(log_probs))
      [0.7310586  0.26894143]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, appendix A.1.
    """
    reward, ref, beta = _tables(reward, ref_log_probs, beta)
    return jax.nn.log_softmax(ref + reward / beta, axis=-1)


@jit()
def selm_value_gap(
    reward: ArrayLike, ref_log_probs: ArrayLike, *, beta: ArrayLike
) -> jax.Array:
    r"""Value of the optimistic inner problem: what the best policy gains.

    .. math::

        \max_\pi \; E_{y \sim \pi, \, y' \sim \pi_{\mathrm{ref}}} [r(y) - r(y')]
        - \beta \, \mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}})
        = \beta \log Z_r - E_{\pi_{\mathrm{ref}}} [r]
        = \beta \, \mathrm{KL}(\pi_{\mathrm{ref}} \,\|\, \pi_r)

    The last form is the identity behind the loss: to be optimistic about the reward
    is to push the policy away from the reference, in the forward divergence.

    Args:
      reward: reward of each answer, shape ``[..., num_answers]``.
      ref_log_probs: normalized log-probability of each answer under the reference, of
        the same shape; ``-inf`` excludes an answer.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.

    Returns:
      The value, at least 0, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> ref = jnp.log(jnp.array([0.5, 0.5]))
      >>> gap = preference.selm_value_gap(jnp.array([1.0, 0.0]), ref, beta=1.0)
      >>> print(f"{gap:.4f}")
      0.1201

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, section 4.1 and
      appendix A.1.
    """
    reward, ref, beta = _tables(reward, ref_log_probs, beta)
    # Centered rewards: log Z and the mean are then both small, and so their rounding.
    centered = reward - jnp.sum(jnp.exp(ref) * reward, axis=-1, keepdims=True)
    scaled = jax.nn.logsumexp(ref + centered / beta, axis=-1)
    return beta[..., 0] * scaled


@jit()
def selm_population_loss(
    log_probs: ArrayLike,
    ref_log_probs: ArrayLike,
    reward: ArrayLike,
    *,
    sampler_log_probs: ArrayLike | None = None,
    alpha: ArrayLike = 1e-3,
    beta: ArrayLike = 0.01,
) -> jax.Array:
    r"""Exact expectation of the self-exploring loss over pairs, labels and answers.

    .. math::

        L(\pi) = -E_{y_1, y_2 \sim \mu} \sum_{\text{labels}} P(w \succ l) \log
        \sigma\bigl(\beta (d_w - d_l)\bigr) + \alpha \beta \,
        E_{y' \sim \pi_{\mathrm{ref}}} [d_{y'}],
        \qquad d = \log \frac{\pi}{\pi_{\mathrm{ref}}}

    with Bradley-Terry labels of ``reward``. Without exploration the minimizer is
    :func:`optimal_policy`, whatever the sampler :math:`\mu`, as long as it can draw
    every answer.

    Args:
      log_probs: normalized log-probability of each answer under the policy, shape
        ``[..., num_answers]``.
      ref_log_probs: the same under the reference, finite; no gradient flows into it.
      reward: the true reward of each answer, of the same shape.
      sampler_log_probs: log-probability of each answer under the policy that draws
        both answers of a pair, of the same shape; None means the reference. No
        gradient flows into it.
      alpha: strength of the exploration, a scalar or broadcastable to ``[...]``.
      beta: how closely to stay to the reference, positive, as ``alpha``.

    Returns:
      The loss of each prompt, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> ref = jnp.log(jnp.array([0.25, 0.75]))
      >>> reward = jnp.array([1.0, 0.0])
      >>> print(preference.selm_population_loss(ref, ref, reward))
      0.6931472

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, eq. 4.2.
    """
    checks.positive(beta=beta)
    sampler = ref_log_probs if sampler_log_probs is None else sampler_log_probs
    policy, ref, reward, sampler = real_arrays(
        None,
        log_probs=log_probs,
        ref_log_probs=ref_log_probs,
        reward=reward,
        sampler_log_probs=sampler,
    )
    checks.axis_size("log_probs", policy, -1, 1)
    alpha, beta = hyper(policy[..., 0], alpha=alpha, beta=beta)
    ref, sampler = jax.lax.stop_gradient((ref, sampler))
    ratio = policy - ref
    implicit = beta[..., None] * ratio
    margin = implicit[..., :, None] - implicit[..., None, :]
    preferred = jax.nn.sigmoid(reward[..., :, None] - reward[..., None, :])
    mass = jnp.exp(sampler)
    weight = mass[..., :, None] * mass[..., None, :] * preferred
    # Each unordered outcome comes up twice: as (i, j) and as (j, i).
    fit = 2.0 * jnp.sum(weight * jax.nn.softplus(-margin), axis=(-2, -1))
    bonus = jnp.sum(jnp.exp(ref) * ratio, axis=-1)
    return fit + alpha * beta * bonus


def _tables(
    reward: ArrayLike, ref_log_probs: ArrayLike, beta: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gives two tables of one dtype, and beta with a last axis of size 1."""
    checks.positive(beta=beta)
    reward, ref = real_arrays(None, reward=reward, ref_log_probs=ref_log_probs)
    checks.axis_size("reward", reward, -1, 1)
    (beta,) = hyper(reward[..., 0], beta=beta)
    return reward, ref, beta[..., None]
