"""Pairs of any format, a transformer that scores them, and short preference runs.

Unlike in `_entanglement_tasks`, every answer has a mask of its own: rows may be padded
and formats mixed. What differs between runs is traced, so that they share programs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkit import entanglement, ops, preference
from jaxkit.nn import CausalTransformer
from jaxkit.typing import ArrayLike, Key, PyTree

BETA = 0.1
CHUNK = 64
"""Pairs measured at a time."""


class Answers(NamedTuple):
    """Prompts with their answers; one, or an array of them.

    Attributes:
      tokens: prompt and answer, integers `[..., time]`.
      answer: which tokens belong to the answer, bool `[..., time]`.
      text: which tokens are no padding, bool `[..., time]`.
    """

    tokens: jax.Array
    answer: jax.Array
    text: jax.Array

    def take(self, *index: Any) -> "Answers":
        """Indexes the leading axes; those of pairs are `[pairs, 2]`, chosen first."""
        return Answers(*(array[index] for array in self))


class Model(NamedTuple):
    """Pure functions of the parameters of a transformer.

    Attributes:
      log_probs: maps `(params, answers)` to the log-probability of each answer.
      states: gives the hidden states, `[..., time, features]`.
      counted: `log_probs` of `[rows]` with an accumulator as its second argument.
    """

    log_probs: Callable[[PyTree, Answers], jax.Array]
    states: Callable[[PyTree, Answers], jax.Array]
    counted: Callable[[PyTree, Any, Answers], jax.Array]


class Recipe(NamedTuple):
    """How to train; all of it is traced.

    Attributes:
      rate: learning rate.
      adam: Adam, or plain descent.
      anchor: weight of the negative log-likelihood of the chosen answer per token.
    """

    rate: ArrayLike
    adam: ArrayLike = True
    anchor: ArrayLike = 0.0


def build_model(
    key: Key,
    vocab_size: int,
    length: int,
    *,
    features: int,
    num_layers: int,
    num_heads: int,
) -> tuple[Model, PyTree]:
    """Builds the transformer and draws its parameters."""

    def network(key: Key) -> CausalTransformer:
        return CausalTransformer(
            vocab_size,
            features,
            num_layers=num_layers,
            num_heads=num_heads,
            max_length=length,
            rngs=nnx.Rngs(params=key),
        )

    graphdef, _ = nnx.split(nnx.eval_shape(network, key), nnx.Param)
    init = jax.jit(lambda key: nnx.to_pure_dict(nnx.split(network(key), nnx.Param)[1]))

    def in_rows(answers: Answers) -> Answers:
        return Answers(*(array.reshape(-1, array.shape[-1]) for array in answers))

    def counted(params: PyTree, accumulator: Any, answers: Answers) -> jax.Array:
        return nnx.merge(graphdef, params).log_probs(
            answers.tokens,
            accumulator=accumulator,
            mask=answers.text,
            where=answers.answer,
        )

    def log_probs(params: PyTree, answers: Answers) -> jax.Array:
        rows = counted(params, None, in_rows(answers))
        return rows.reshape(answers.tokens.shape[:-1])

    def states(params: PyTree, answers: Answers) -> jax.Array:
        rows = in_rows(answers)
        hidden = nnx.merge(graphdef, params)(rows.tokens, where=rows.text)
        return hidden.reshape(*answers.tokens.shape, features)

    return Model(log_probs, states, counted), init(key)


def lengths(answers: Answers) -> jax.Array:
    """Counts the tokens of each answer."""
    return jnp.sum(answers.answer, axis=-1, dtype=jnp.int32)


def score(model: Model, params: PyTree, pairs: Answers) -> jax.Array:
    """The log-probabilities of all pairs, `[pairs, 2]`."""
    # Differentiated, it keeps no more than one chunk either.
    one = jax.checkpoint(lambda pair: model.log_probs(params, pair))
    return jax.lax.map(one, pairs, batch_size=CHUNK)


def pair_grams(model: Model, params: PyTree, pairs: Answers) -> entanglement.PairGram:
    """The inner products of the two gradients of each pair, exactly."""
    one = lambda pair: entanglement.accumulated_pair_gram(model.counted, params, pair)
    grams = jax.lax.map(one, pairs, batch_size=CHUNK)
    return entanglement.PairGram(*(products[:, 0] for products in grams))


def learn_answers(
    key: Key,
    model: Model,
    params: PyTree,
    pairs: Answers,
    *,
    num_steps: int,
    rate: ArrayLike = 3e-3,
    batch_size: int = 64,
) -> PyTree:
    """Trains on either answer with equal chances: what answers look like, no more."""
    optimizer = optax.adam(rate)

    def step(carry: Any, key: Key) -> tuple[Any, None]:
        params, memory = carry
        row_key, coin_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (batch_size,), 0, len(pairs.tokens))
        sides = jax.random.randint(coin_key, (batch_size,), 0, 2)
        batch = pairs.take(rows, sides)

        def loss(params: PyTree) -> jax.Array:
            counts = jnp.maximum(lengths(batch), 1)
            return jnp.mean(-model.log_probs(params, batch) / counts)

        updates, memory = optimizer.update(jax.grad(loss)(params), memory)
        return (optax.apply_updates(params, updates), memory), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    return params


def pair_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    ref_chosen: jax.Array,
    ref_rejected: jax.Array,
    chosen_lengths: jax.Array,
    anchor: ArrayLike,
) -> jax.Array:
    """DPO plus `anchor` times the negative log-likelihood per token."""
    logps = (chosen, rejected, ref_chosen, ref_rejected)
    return preference.rpo_loss(*logps, chosen_lengths, beta=BETA, weight=anchor)


def learn_preferences(
    key: Key,
    model: Model,
    params: PyTree,
    pairs: Answers,
    refs: jax.Array,
    recipe: Recipe,
    *,
    num_steps: int,
    num_records: int = 1,
    batch_size: int = 32,
) -> tuple[PyTree, jax.Array]:
    """Trains on batches of pairs.

    Args:
      key: draws the batches.
      model: the functions of the parameters.
      params: the reference.
      pairs: the pairs, `[pairs, 2]`.
      refs: their log-probabilities under the reference.
      recipe: the loss and the optimizer.
      num_steps: steps, a multiple of `num_records`.
      num_records: how often the changes are measured.
      batch_size: pairs in a batch.

    Returns:
      The parameters, and how far the log-probabilities of all pairs have moved from
      the reference, `[num_records, pairs, 2]`.
    """
    adam = optax.scale_by_adam()

    def step(carry: Any, key: Key) -> tuple[Any, None]:
        params, memory = carry
        rows = jax.random.randint(key, (batch_size,), 0, len(pairs.tokens))
        batch, before = pairs.take(rows), refs[rows]

        def loss(params: PyTree) -> jax.Array:
            now = model.log_probs(params, batch)
            counts = lengths(batch)[:, 0]
            losses = pair_loss(*now.T, *before.T, counts, recipe.anchor)
            return ops.masked_mean(losses)

        grads = jax.grad(loss)(params)
        scaled, memory = adam.update(grads, memory)
        params = jax.tree.map(
            lambda p, a, g: p - recipe.rate * jnp.where(recipe.adam, a, g),
            *(params, scaled, grads),
        )
        return (params, memory), None

    def block(carry: Any, keys: Key) -> tuple[Any, jax.Array]:
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, score(model, carry[0], pairs) - refs

    keys = jax.random.split(key, (num_records, num_steps // num_records))
    (params, _), moved = jax.lax.scan(block, (params, adam.init(params)), keys)
    return params, moved
