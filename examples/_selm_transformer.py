"""A small transformer on a world where rewards are known: prompts, answers, rounds."""

import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkit import nn, ops, preference
from jaxkit.typing import Key, PyTree

NUM_BINS = 10
"""Bins of the rewards in [0, 1]; the last one holds the best answer alone."""


class Settings(Protocol):
    """What the functions below read of the options."""

    rho: float
    num_classes: int
    num_answers: int
    prompt_length: int
    features: int
    num_layers: int
    num_heads: int
    start_steps: int
    start_rate: float
    start_batch: int
    num_rounds: int
    batch: int
    num_steps: int
    rate: float
    beta: float


class World(NamedTuple):
    """Rewards and reference of one run, `[num_classes, num_answers]`."""

    reward: jax.Array
    ref_log_probs: jax.Array


class Answers(NamedTuple):
    """Prompts `[batch, prompt_length]` and one token `[batch]` in answer to each."""

    prompts: jax.Array
    tokens: jax.Array


class Record(NamedTuple):
    """What is kept of each round.

    Attributes:
      greedy: reward of the greedy answers.
      best: how often the greedy answer is the best one.
      reward: expected reward of a sampled answer.
      found: whether the best answer to each class was sampled, bool `[num_classes]`.
      histogram: how the rewards of sampled answers are spread over `NUM_BINS`.
    """

    greedy: jax.Array
    best: jax.Array
    reward: jax.Array
    found: jax.Array
    histogram: jax.Array


def sample_world(key: Key, config: Settings) -> World:
    """Draws a world: one answer of reward 1 that the reference hardly ever gives."""
    best_key, reward_key, logit_key = jax.random.split(key, 3)
    shape = (config.num_classes, config.num_answers)
    place = jax.random.randint(best_key, shape[:1], 0, shape[1])
    best = jax.nn.one_hot(place, shape[1], dtype=bool)
    reward = jnp.where(best, 1.0, 0.6 * jax.random.uniform(reward_key, shape))
    logits = jnp.where(best, -jnp.inf, jax.random.normal(logit_key, shape))
    rest = jax.nn.log_softmax(logits) + jnp.log1p(-jnp.exp(config.rho))
    return World(reward, jnp.where(best, config.rho, rest))


def sample_prompts(key: Key, count: int, config: Settings) -> jax.Array:
    """Draws prompts: a class, then tokens that mean nothing."""
    class_key, noise_key = jax.random.split(key)
    kind = jax.random.randint(class_key, (count, 1), 0, config.num_classes)
    shape = (count, config.prompt_length - 1)
    noise = jax.random.randint(noise_key, shape, 0, config.num_answers)
    return jnp.concatenate([kind, noise], axis=1)


def make_policy(config: Settings, rngs: nnx.Rngs) -> nn.PreferencePolicy:
    """Builds the transformer; prompts and answers share their tokens."""
    return nn.PreferencePolicy(
        max(config.num_answers, config.num_classes),
        config.features,
        config.num_layers,
        config.num_heads,
        max_length=config.prompt_length + 1,
        rngs=rngs,
    )


class Model:
    """The policy as pure functions of its parameters."""

    def __init__(self, config: Settings):
        """Keeps the structure of the policy, without its parameters."""
        self.config = config
        policy = nnx.eval_shape(lambda: make_policy(config, nnx.Rngs(0)))
        self._graphdef = nnx.split(policy, nnx.Param)[0]

    def init(self, key: Key) -> PyTree:
        """Draws parameters."""
        policy = make_policy(self.config, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(policy, nnx.Param))

    def policy(self, params: PyTree) -> nn.PreferencePolicy:
        """Puts parameters into the policy."""
        return nnx.merge(self._graphdef, params)

    def logits(self, params: PyTree, prompts: jax.Array) -> jax.Array:
        """Gives the logits of the answers, `[batch, num_answers]`."""
        policy = self.policy(params)
        return policy.logits(policy(prompts)[:, -1])[:, : self.config.num_answers]

    def log_probs(self, params: PyTree, answers: Answers) -> jax.Array:
        """Scores answers; those of one round repeat its prompts, read only once.

        An answer is one token here, so the logits after the prompt tell everything.
        Longer ones go through `jaxkit.preference.answer_log_probs`.
        """
        count = min(self.config.batch, answers.tokens.shape[0])
        logits = self.logits(params, answers.prompts[:count])
        repeats = answers.tokens.shape[0] // count
        return ops.selected_log_probs(jnp.tile(logits, (repeats, 1)), answers.tokens)

    def sample(self, key: Key, params: PyTree, prompts: jax.Array) -> Answers:
        """Draws one answer to each prompt."""
        return self.explore(key, params, prompts, greedy=jnp.asarray(False))

    def explore(
        self, key: Key, params: PyTree, prompts: jax.Array, *, greedy: jax.Array
    ) -> Answers:
        """Gives the most likely answers if `greedy`, else sampled ones."""
        logits = self.logits(params, prompts)
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        scores = jnp.where(greedy, logits, logits + noise)
        return Answers(prompts, first_largest(scores))


def make_optimizer(config: Settings) -> optax.GradientTransformation:
    """Makes the optimizer of the rounds; its memory is kept from round to round."""
    return optax.adam(config.rate)


def first_largest(scores: jax.Array) -> jax.Array:
    """Finds the first largest entry of each row.

    `jnp.argmax` reduces pairs, which is slow in a compiled loop on CPU.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    largest = scores == jnp.max(scores, axis=1, keepdims=True)
    return jnp.min(jnp.where(largest, places, scores.shape[1] - 1), axis=1)


def supervised_start(key: Key, model: Model, world: World) -> PyTree:
    """Fits the policy to the exact reference distribution."""
    config = model.config
    init_key, key = jax.random.split(key)
    params = model.init(init_key)
    schedule = optax.cosine_decay_schedule(config.start_rate, config.start_steps)
    optimizer = optax.adam(schedule)

    def step(carry: tuple, key: Key) -> tuple[tuple, None]:
        params, memory = carry
        prompts = sample_prompts(key, config.start_batch, config)
        target = jnp.exp(world.ref_log_probs)[prompts[:, 0]]

        def loss_fn(params: PyTree) -> jax.Array:
            logits = model.logits(params, prompts)
            return jnp.mean(optax.losses.softmax_cross_entropy(logits, target))

        updates, memory = optimizer.update(jax.grad(loss_fn)(params), memory, params)
        return (optax.apply_updates(params, updates), memory), None

    keys = jax.random.split(key, config.start_steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def round_step(
    key: Key,
    state: preference.SelmState,
    model: Model,
    world: World,
    test: jax.Array,
    *,
    alpha: jax.Array,
    greedy: jax.Array,
    bonus: str,
) -> tuple[preference.SelmState, Record]:
    """Collects the pairs of one round, trains on them and measures the policy."""
    config = model.config
    settings = preference.SelmConfig(
        alpha=alpha,
        beta=config.beta,
        bonus=bonus,
        alpha_schedule=optax.linear_schedule(1.0, 0.0, config.num_rounds),
        num_steps=config.num_steps,
    )
    score = lambda answers: world.reward[answers.prompts[:, 0], answers.tokens]
    prompt_key, key = jax.random.split(jax.random.fold_in(key, state.round))
    batch = preference.collect(
        key,
        state,
        sample_prompts(prompt_key, config.batch, config),
        sample_fn=model.sample,
        score_fn=score,
        explore_fn=functools.partial(model.explore, greedy=greedy),
        config=settings,
    )
    state, _ = preference.train_round(
        state,
        batch,
        log_prob_fn=model.log_probs,
        optimizer=make_optimizer(config),
        config=settings,
    )
    # Scores of a pair are ordered: the better answer is the best if any is.
    hit = score(batch.chosen) == 1.0
    kind = batch.chosen.prompts[:, :1] == jnp.arange(config.num_classes)[None]
    found = jnp.any(hit[:, None] & kind, axis=0)
    return state, measure(state.params, model, world, test, found)


def measure(
    params: PyTree, model: Model, world: World, test: jax.Array, found: jax.Array
) -> Record:
    """Evaluates a policy on test prompts, exactly over all answers."""
    reward = world.reward[test[:, 0]]
    logits = model.logits(params, test)
    greedy = jnp.take_along_axis(reward, first_largest(logits)[:, None], axis=1)
    weights = jax.nn.softmax(logits) / test.shape[0]
    bins = jnp.minimum(reward * NUM_BINS, NUM_BINS - 1).astype(jnp.int32)
    histogram = jnp.sum(weights[..., None] * jax.nn.one_hot(bins, NUM_BINS), (0, 1))
    return Record(
        greedy=jnp.mean(greedy),
        best=jnp.mean(greedy == 1.0),
        reward=jnp.sum(weights * reward),
        found=found,
        histogram=histogram,
    )


def divergence(
    params: PyTree, model: Model, world: World, prompts: jax.Array
) -> jax.Array:
    """Averages KL(reference || policy) over prompts."""
    reference = world.ref_log_probs[prompts[:, 0]]
    gap = reference - jax.nn.log_softmax(model.logits(params, prompts))
    return jnp.mean(jnp.sum(jnp.exp(reference) * gap, axis=1))


def held_out_prompts(key: Key, config: Settings, *, repeats: int) -> jax.Array:
    """Makes `repeats` prompts of each class, the classes in order."""
    count = config.num_classes * repeats
    kind = jnp.repeat(jnp.arange(config.num_classes), repeats)
    return sample_prompts(key, count, config).at[:, 0].set(kind)
