"""From scores to pairs: the best and the worst of several answers, noisy labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike, Key

__all__ = ["RankedPair", "bradley_terry_labels", "rank_responses"]


class RankedPair(NamedTuple):
    """Which of several answers are the best and the worst.

    Attributes:
      chosen: index of the best answer, int32 ``[...]``.
      rejected: index of the worst answer, int32 ``[...]``.
      valid: whether the best scores more than the worst, bool ``[...]``; False for
        ties, for fewer than two answers that count, and where a score is NaN. Pass it
        as the ``where`` of a loss.
    """

    chosen: jax.Array
    rejected: jax.Array
    valid: jax.Array


@jit()
def rank_responses(scores: ArrayLike, *, where: ArrayLike | None = None) -> RankedPair:
    r"""Picks the best and the worst answer to each prompt.

    .. math:: y_w = \arg\max_k s_k, \qquad y_l = \arg\min_k s_k

    Of equal scores the best is the first, the worst the last, so that two different
    answers come back even from a tie.

    Args:
      scores: the score of each answer, shape ``[..., num_answers]``.
      where: which answers count, bool, broadcastable to the shape of ``scores``.

    Returns:
      The indices and whether they make a pair, a :class:`RankedPair`.

    Raises:
      TypeError: if ``scores`` is not real, or ``where`` not bool.
      ValueError: if there are fewer than two answers, or ``where`` does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> pair = preference.rank_responses(jnp.array([[0.1, 0.9, 0.4], [1.0, 1.0, 1.0]]))
      >>> print(pair.chosen, pair.rejected, pair.valid)
      [1 0] [0 2] [ True False]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1, line 5.
    """
    (scores,) = checks.floating(scores=scores)
    checks.axis_size("scores", scores, -1, 2)
    high = masked_fill(scores, where, fill=-jnp.inf)
    low = masked_fill(scores, where, fill=jnp.inf)
    chosen = jnp.argmax(high, axis=-1)
    # Reversed, the first minimum is the last one.
    last = scores.shape[-1] - 1
    rejected = last - jnp.argmin(low[..., ::-1], axis=-1)
    valid = jnp.max(high, axis=-1) > jnp.min(low, axis=-1)
    return RankedPair(chosen.astype(jnp.int32), rejected.astype(jnp.int32), valid)


@jit()
def bradley_terry_labels(
    key: Key, rewards_a: ArrayLike, rewards_b: ArrayLike, *, scale: ArrayLike = 1.0
) -> jax.Array:
    r"""Draws which of two answers a noisy judge prefers.

    .. math:: P(a \succ b) = \sigma\bigl(\mathrm{scale} \, (r_a - r_b)\bigr)

    Args:
      key: a typed random key.
      rewards_a: reward of each first answer, shape ``[...]``.
      rewards_b: reward of each second answer, ``[...]``.
      scale: how reliable the judge is, at least 0, a scalar or broadcastable to
        ``[...]``; 0 tosses a coin.

    Returns:
      Whether the first answer wins, bool ``[...]``.

    Raises:
      TypeError: if a reward is not real, or ``key`` no typed key.
      ValueError: if the shapes differ.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> wins = preference.bradley_terry_labels(
      ...     jax.random.key(0), jnp.full(1000, 0.5), jnp.zeros(1000), scale=4.0)
      >>> print(f"{wins.mean():.1f}")
      0.9

    References:
      Bradley and Terry, *Rank analysis of incomplete block designs*, 1952.
    """
    checks.typed_key(key)
    rewards_a, rewards_b, scale = checks.floating(
        rewards_a=rewards_a, rewards_b=rewards_b, scale=scale
    )
    checks.same_shape(rewards_a=rewards_a, rewards_b=rewards_b)
    checks.broadcastable("scale", scale, rewards_a.shape)
    checkify.debug_check(
        jnp.all(scale >= 0), "`scale` must not be negative, got {x}.", x=jnp.min(scale)
    )
    dtype = accumulation_dtype(rewards_a, rewards_b)
    margin = rewards_a.astype(dtype) - rewards_b.astype(dtype)
    scale = jnp.broadcast_to(scale.astype(dtype), margin.shape)
    return jax.random.bernoulli(key, jax.nn.sigmoid(scale * margin))
