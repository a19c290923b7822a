"""Answers that are a label and a fixed suffix, and a model that knows their format."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkit.nn import CausalTransformer
from jaxkit.typing import Key, PyTree

NUM_WORDS = 8
LABEL_PLACE = NUM_WORDS + 2
MAX_SUFFIX = 5
LENGTH = LABEL_PLACE + 1 + MAX_SUFFIX
SUFFIXES = {"one token": 0, "short suffix": 1, "long suffix": MAX_SUFFIX}
"""How many fixed tokens follow the label, in each of the three formats."""

START, FIRST_WORD, NUM_KINDS, SEPARATOR, FIRST_LABEL, FIRST_SUFFIX = (
    0,
    1,
    16,
    49,
    50,
    52,
)
VOCAB_SIZE = 60


class Pairs(NamedTuple):
    """Prompts with the right and with the other label, each `[pairs, LENGTH]`."""

    chosen: jax.Array
    rejected: jax.Array

    def rows(self, index: jax.Array) -> "Pairs":
        """Picks some of the pairs."""
        return Pairs(self.chosen[index], self.rejected[index])


class Model(NamedTuple):
    """Pure functions of the parameters of a transformer.

    Attributes:
      log_probs: maps `(params, tokens, where)` to the log-probability of each answer.
      token_log_probs: the same for each of its tokens.
      counted: `log_probs` with an accumulator of inner products as second argument.
    """

    log_probs: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    token_log_probs: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    counted: Callable[[PyTree, Any, jax.Array, jax.Array], jax.Array]


def sample_pairs(key: Key, num_pairs: int) -> Pairs:
    """Draws prompts of eight words, each with probability 0.6 a word of the class.

    All formats share these tokens: a causal model does not see what follows, so a
    shorter suffix is the same sequence with fewer places counted, see `answer_mask`.
    """
    keys = jax.random.split(key, 3)
    label = jax.random.bernoulli(keys[0], 0.5, (num_pairs, 1)).astype(jnp.int32)
    word = jax.random.randint(keys[1], (num_pairs, NUM_WORDS), 0, NUM_KINDS)
    telling = jax.random.bernoulli(keys[2], 0.6, (num_pairs, NUM_WORDS))
    kind = jnp.where(telling, label, 2)
    prompt = FIRST_WORD + NUM_KINDS * kind + word
    suffix = FIRST_SUFFIX + jnp.arange(MAX_SUFFIX)
    suffix = jnp.broadcast_to(suffix, (num_pairs, MAX_SUFFIX))
    start, separator = jnp.full_like(label, START), jnp.full_like(label, SEPARATOR)

    def build(label: jax.Array) -> jax.Array:
        parts = (start, prompt, separator, FIRST_LABEL + label, suffix)
        return jnp.concatenate(parts, axis=1)

    return Pairs(build(label), build(1 - label))


def answer_mask(num_suffix: Any) -> jax.Array:
    """Marks the label and so many tokens of the suffix, bool `[LENGTH]`."""
    place = jnp.arange(LENGTH)
    return (place >= LABEL_PLACE) & (place <= LABEL_PLACE + num_suffix)


def build_model(
    key: Key, *, features: int, num_layers: int, num_heads: int
) -> tuple[Model, PyTree]:
    """Builds the transformer and draws its parameters."""
    network = CausalTransformer(
        VOCAB_SIZE,
        features,
        num_layers=num_layers,
        num_heads=num_heads,
        max_length=LENGTH,
        rngs=nnx.Rngs(params=key),
    )
    graphdef, variables = nnx.split(network, nnx.Param)

    def token_log_probs(params: PyTree, tokens: jax.Array, where: jax.Array) -> Any:
        network = nnx.merge(graphdef, params)
        where = jnp.broadcast_to(where, tokens.shape)
        return network.token_log_probs(tokens, where=where)

    def counted(
        params: PyTree, accumulator: Any, tokens: jax.Array, where: jax.Array
    ) -> jax.Array:
        network = nnx.merge(graphdef, params)
        where = jnp.broadcast_to(where, tokens.shape)
        return network.log_probs(tokens, accumulator=accumulator, where=where)

    plain = lambda params, tokens, where: counted(params, None, tokens, where)
    model = Model(plain, token_log_probs, counted)
    return model, nnx.to_pure_dict(variables)


def learn_format(
    key: Key,
    model: Model,
    params: PyTree,
    pairs: Pairs,
    where: jax.Array,
    *,
    num_steps: int,
    rate: Any = 3e-3,
    batch_size: int = 64,
) -> PyTree:
    """Trains on answers whose label is drawn at random: the format and no more."""
    optimizer = optax.adam(rate)
    num_pairs = pairs.chosen.shape[0]

    def step(carry: Any, key: Key) -> tuple[Any, None]:
        params, state = carry
        row_key, coin_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (batch_size,), 0, num_pairs)
        coin = jax.random.bernoulli(coin_key, 0.5, (batch_size, 1))
        tokens = jnp.where(coin, *pairs.rows(rows))
        loss = lambda params: -model.log_probs(params, tokens, where).mean()
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    return params
