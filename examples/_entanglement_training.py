"""Training on pairs in few compiled programs: what differs between runs is traced."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from _entanglement_tasks import Model, Pairs, answer_mask

from jaxkit import entanglement, preference
from jaxkit.typing import Key, PyTree

BETA = 0.1
LOSSES = ("DPO", "DPOP", "DPO + NLL", "SPPO")


class Task(NamedTuple):
    """Pairs, which of their places belong to the answer, and the reference.

    Attributes:
      pairs: tokens, each `[pairs, LENGTH]`.
      where: places of the answer, `[LENGTH]`.
      refs: log-probabilities under the reference, each `[pairs]`.
    """

    pairs: Pairs
    where: jax.Array
    refs: entanglement.Changes


class Recipe(NamedTuple):
    """How to train; all of it is traced.

    Attributes:
      weights: weight of each of `LOSSES`.
      rate: learning rate.
      adam: Adam or plain descent.
      normalized: whether the two halves of the batch gradient are made equally long.
    """

    weights: jax.Array
    rate: jax.Array
    adam: jax.Array
    normalized: jax.Array

    @classmethod
    def of(cls, loss: str, optimizer: str, rate: float, method: str) -> "Recipe":
        """Translates names."""
        weights = jnp.array([float(name == loss) for name in LOSSES])
        return cls(
            weights,
            jnp.asarray(rate),
            jnp.asarray(optimizer == "Adam"),
            jnp.asarray(method == "batch"),
        )


class State(NamedTuple):
    """Parameters, moments of Adam, and the key of the next batch."""

    params: PyTree
    moments: Any
    key: Key


def make_task(model: Model, params: PyTree, pairs: Pairs, num_suffix: Any) -> Task:
    """Measures the pairs under the reference."""
    where = answer_mask(num_suffix)
    refs = (model.log_probs(params, tokens, where) for tokens in pairs)
    return Task(pairs, where, entanglement.Changes(*refs))


def start(key: Key, params: PyTree) -> State:
    """The state before the first step."""
    return State(params, optax.scale_by_adam().init(params), key)


def mixed_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    ref_chosen: jax.Array,
    ref_rejected: jax.Array,
    length: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """The weighted sum of `LOSSES`, so that one program serves all of them."""
    logps = (chosen, rejected, ref_chosen, ref_rejected)
    losses = (
        preference.dpo_loss(*logps, beta=BETA),
        preference.dpop_loss(*logps, beta=BETA, weight=50.0),
        preference.rpo_loss(*logps, length, beta=BETA, weight=1.0),
        preference.sppo_loss(*logps, beta=BETA),
    )
    return jnp.tensordot(weights, jnp.stack(losses), axes=1)


def make_step(
    model: Model, task: Task, recipe: Recipe, *, batch_size: int, per_pair: bool
) -> Callable[[State], tuple[State, tuple[jax.Array, Pairs, tuple]]]:
    """Makes one step; it also returns the loss, the batch and what the loss read."""
    log_probs = lambda params, tokens: model.log_probs(params, tokens, task.where)
    if per_pair:
        value_and_grad = entanglement.normalized_pair_value_and_grad(
            log_probs, mixed_loss, functools.partial(pair_grams, model, task.where)
        )
    else:
        split = entanglement.split_value_and_grad(log_probs, mixed_loss)

        def value_and_grad(*args: Any) -> Any:
            value, halves = split(*args)
            combine = entanglement.combine_gradients
            both = [combine(*halves, method=m) for m in ("sum", "normalized")]
            return value, jax.tree.map(
                functools.partial(jnp.where, recipe.normalized), *both[::-1]
            )

    def step(state: State) -> tuple[State, tuple[jax.Array, Pairs, tuple]]:
        row_key, key = jax.random.split(state.key)
        shape = (batch_size,)
        rows = jax.random.randint(row_key, shape, 0, len(task.refs.chosen))
        batch = task.pairs.rows(rows)
        length = jnp.sum(task.where)
        refs = (task.refs.chosen[rows], task.refs.rejected[rows])
        args = (*refs, length, recipe.weights)
        (value, _), grads = value_and_grad(state.params, *batch, *args)
        adam, moments = optax.scale_by_adam().update(grads, state.moments)
        params = jax.tree.map(
            lambda p, a, g: p - recipe.rate * jnp.where(recipe.adam, a, g),
            *(state.params, adam, grads),
        )
        return State(params, moments, key), (value, batch, args)

    return step


def pair_grams(
    model: Model, where: jax.Array, params: PyTree, chosen: jax.Array, rejected: Any
) -> entanglement.PairGram:
    """The inner products of each pair in one backward pass."""
    log_prob = lambda params, counts, tokens: model.counted(
        params, counts, tokens, where
    )
    tokens = jnp.concatenate([chosen, rejected])
    return entanglement.accumulated_pair_gram(log_prob, params, tokens)


def changes(model: Model, params: PyTree, task: Task) -> entanglement.Changes:
    """How far the log-probabilities have moved from the reference."""
    logps = (model.log_probs(params, tokens, task.where) for tokens in task.pairs)
    return entanglement.Changes(
        *(now - ref for now, ref in zip(logps, task.refs, strict=True))
    )


def two_at_a_time(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator:
    """Maps a function over items in two threads, in order.

    One run leaves a core idle: its arrays are small. The promotion rules of JAX belong
    to a thread, so they are handed on.
    """
    dtypes = jax.config.jax_numpy_dtype_promotion
    ranks = jax.config.jax_numpy_rank_promotion

    def inside(item: Any) -> Any:
        with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
            return function(item)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(inside, items)
