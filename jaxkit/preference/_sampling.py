"""Sampling of answers, token by token."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.ops import selected_log_probs
from jaxkit.typing import ArrayLike, Key

__all__ = ["SampledTokens", "sample_tokens"]

S = TypeVar("S")


class SampledTokens(NamedTuple):
    """Answers as :func:`sample_tokens` returns them.

    Attributes:
      tokens: the tokens, integers ``[batch, num_tokens]``; 0 after the end.
      log_probs: log-probability of each under the model at temperature 1, whatever
        the temperature of sampling; 0 after the end.
      where: which tokens belong to the answer, the end token included.
    """

    tokens: jax.Array
    log_probs: jax.Array
    where: jax.Array


def sample_tokens(
    key: Key,
    step_fn: Callable[[S, jax.Array], tuple[S, jax.Array]],
    state: S,
    logits: ArrayLike,
    *,
    num_tokens: int,
    temperature: ArrayLike = 1.0,
    greedy: bool = False,
    end_token: int | None = None,
) -> SampledTokens:
    r"""Samples answers from a model that is fed one token at a time.

    .. math:: y_t \sim \mathrm{softmax}(z_t / \tau), \qquad
       z_{t+1} = f(s_t, y_t)

    A scan, so the compiled program does not grow with ``num_tokens``. The rows of a
    batch are independent and all take ``num_tokens`` steps.

    Args:
      key: the random key; not used when ``greedy``.
      step_fn: maps a state and the tokens ``[batch]`` just drawn to the next state
        and the logits ``[batch, vocabulary]`` after them.
      state: what the model keeps of the tokens so far, any pytree, such as a cache
        of keys and values.
      logits: logits of the first token, ``[batch, vocabulary]``.
      num_tokens: how many tokens to draw.
      temperature: divides the logits; positive.
      greedy: whether to take the most likely token, the first one of equals: the
        limit of temperature 0.
      end_token: the token that ends an answer; None for answers of fixed length.

    Returns:
      The tokens, their log-probs and which of them belong to the answer.

    Raises:
      TypeError: if ``key`` is no typed key or ``logits`` are not floating.
      ValueError: if ``num_tokens < 1`` or ``logits`` is not a matrix.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> table = 9 * jnp.eye(4, k=1)  # token i is followed by token i + 1
      >>> answers = jaxkit.preference.sample_tokens(
      ...     jax.random.key(0),
      ...     lambda state, tokens: (state, table[tokens]),
      ...     (),
      ...     table[jnp.array([0, 1])],
      ...     num_tokens=3,
      ...     greedy=True,
      ...     end_token=3,
      ... )
      >>> print(answers.tokens)
      [[1 2 3]
       [2 3 0]]
    """
    checks.typed_key(key)
    checks.at_least("num_tokens", num_tokens, 1)
    (logits,) = checks.floating(logits=logits)
    if logits.ndim != 2:
        raise ValueError(
            f"`logits` must have shape (batch, vocabulary), got {logits.shape}."
        )

    def step(carry: tuple, key: Key) -> tuple[tuple, SampledTokens]:
        state, logits, alive = carry
        wide = logits.astype(accumulation_dtype(logits))
        scores = wide if greedy else _noisy(key, wide, temperature)
        tokens = jnp.where(alive, _first_largest(scores), 0)
        log_probs = selected_log_probs(wide, tokens, where=alive)
        still = alive if end_token is None else alive & (tokens != end_token)
        state, logits = step_fn(state, tokens)
        drawn = SampledTokens(tokens, log_probs, alive)
        return (state, logits, still), drawn

    # All rows draw at first; the carry must have the dtypes that a step returns.
    alive = jnp.ones(logits.shape[:1], jnp.bool_)
    keys = jax.random.split(key, num_tokens)
    _, drawn = jax.lax.scan(step, (state, logits, alive), keys)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), drawn)


def _noisy(key: Key, logits: jax.Array, temperature: ArrayLike) -> jax.Array:
    """Adds noise whose largest sum is a draw from the softmax."""
    (temperature,) = checks.floating(temperature=temperature)
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return logits / temperature.astype(logits.dtype) + noise


def _first_largest(scores: jax.Array) -> jax.Array:
    """Finds the first largest entry of each row.

    By two plain reductions: a reduction over pairs, as in `jnp.argmax`, is an order
    of magnitude slower in a compiled loop on CPU.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    largest = scores == jnp.max(scores, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest, places, scores.shape[-1] - 1), axis=-1)
