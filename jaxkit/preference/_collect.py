"""Collecting the pairs of a round, and the loop over rounds."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.preference._loop import (
    BonusFn,
    LogProbFn,
    SelmBatch,
    SelmConfig,
    SelmState,
    init_replay,
    train_round,
)
from jaxkit.preference._ranking import rank_responses
from jaxkit.typing import Key, PyTree

__all__ = ["collect", "run_selm"]

SampleFn: TypeAlias = Callable[[Key, Any, Any], PyTree]
ScoreFn: TypeAlias = Callable[[Any], jax.Array]


def collect(
    key: Key,
    state: SelmState,
    prompts: PyTree,
    *,
    sample_fn: SampleFn,
    score_fn: ScoreFn,
    config: SelmConfig,
    explore_fn: SampleFn | None = None,
    candidates: PyTree | None = None,
) -> SelmBatch:
    r"""Draws answers, ranks them, and adds the exploration answer.

    .. math::

        y_1, \dots, y_K \sim \pi(\cdot \mid x), \qquad y_w = \arg\max_k s(y_k), \qquad
        y_l = \arg\min_k s(y_k), \qquad y' \sim \pi_{\mathrm{ref}}

    A pair counts if its scores differ and its answers do. A noisy judge adds
    ``Gumbel / label_scale`` to the scores: of two answers the better then wins with
    the probability of :func:`bradley_terry_labels`. Not compiled: jit the function
    that calls it.

    Args:
      key: a typed random key.
      state: the state of the loop.
      prompts: the prompts of the round, any pytree.
      sample_fn: ``sample_fn(key, params, prompts)`` draws one answer per prompt: a
        pytree whose leaves have a leading axis ``batch`` and that holds all that
        ``score_fn`` and the model need, prompt included.
      score_fn: ``score_fn(answers)`` gives scores, shape ``[batch]``.
      config: the settings; read are ``num_samples``, ``rank_explore`` and
        ``label_scale``.
      explore_fn: makes the exploration answers from the parameters of the
        *reference*, called like ``sample_fn``. None samples them, which adds no
        exploration; greedy decoding, as in the paper's code, does.
      candidates: answers ranked besides the sampled ones, such as the pairs of a
        dataset, with a leading axis before ``batch``.

    Returns:
      The pairs, a :class:`SelmBatch`.

    Raises:
      ValueError: if there are fewer than two answers to rank, or ``score_fn`` returns
        a wrong shape.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> batch = preference.collect(
      ...     jax.random.key(0),
      ...     preference.init_selm(jnp.zeros((100, 3))),
      ...     None,
      ...     sample_fn=lambda key, logits, _: jax.random.categorical(key, logits),
      ...     score_fn=lambda answers: answers.astype(float),
      ...     explore_fn=lambda key, logits, _: jnp.argmax(logits, axis=-1),
      ...     config=preference.SelmConfig())
      >>> print((batch.chosen > batch.rejected)[batch.where].all(), batch.explore[:3])
      True [0 0 0]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1, lines 4
      and 5.
    """
    checks.typed_key(key)
    key, explore_key, noise_key = jax.random.split(key, 3)
    explore = (sample_fn if explore_fn is None else explore_fn)(
        explore_key, state.ref_params, prompts
    )
    groups = []
    if config.num_samples:
        keys = jax.random.split(key, config.num_samples)
        draw = lambda key: sample_fn(key, state.params, prompts)
        groups.append(jax.vmap(draw)(keys))
    if config.rank_explore:
        groups.append(jax.tree.map(lambda x: x[None], explore))
    if candidates is not None:
        groups.append(candidates)
    if not groups:
        raise ValueError("`num_samples` must be positive if nothing else is ranked.")
    answers = jax.tree.map(lambda *xs: jnp.concatenate(xs), *groups)
    scores = jax.vmap(score_fn)(answers)
    sizes = jax.tree.leaves(answers)[0].shape[:2]
    if scores.shape != sizes:
        raise ValueError(f"`score_fn` must return {sizes[1:]}, got {scores.shape[1:]}.")
    if config.label_scale is not None:
        (scale,) = checks.floating(label_scale=config.label_scale)
        noise = jax.random.gumbel(noise_key, scores.shape, scores.dtype)
        scores = scores + noise / scale.astype(scores.dtype)
    chosen, rejected, where = _pairs(answers, scores)
    return SelmBatch(chosen, rejected, explore, where, jnp.ones_like(where))


def _pairs(answers: PyTree, scores: jax.Array) -> tuple[PyTree, PyTree, jax.Array]:
    """Picks the best and the worst answer, and tells which of them make a pair."""
    pair = rank_responses(scores.T)
    prompt = jnp.arange(scores.shape[1])
    pick = lambda index: jax.tree.map(lambda x: x[index, prompt], answers)
    chosen, rejected = pick(pair.chosen), pick(pair.rejected)
    return chosen, rejected, pair.valid & ~_identical(chosen, rejected)


def _identical(first: PyTree, second: PyTree) -> jax.Array:
    """Tells which rows of two pytrees agree in every leaf."""
    same = [
        jnp.all((a == b).reshape(a.shape[0], -1), axis=-1)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    ]
    return jnp.all(jnp.stack(same), axis=0)


def run_selm(
    key: Key,
    state: SelmState,
    *,
    num_rounds: int,
    prompt_fn: Callable[[Key, jax.Array], PyTree],
    sample_fn: SampleFn,
    score_fn: ScoreFn,
    log_prob_fn: LogProbFn,
    optimizer: optax.GradientTransformation,
    config: SelmConfig,
    explore_fn: SampleFn | None = None,
    bonus_fn: BonusFn | None = None,
    record: Callable[[SelmState, SelmBatch], PyTree] | None = None,
) -> tuple[SelmState, PyTree]:
    r"""Runs whole rounds of collecting and training in one scan.

    .. math:: s_{t+1} = \mathrm{train}(s_t, \mathrm{collect}(s_t, x_t))

    Everything is traced: jit the function that calls it, and map that over keys,
    problems and settings with ``jax.vmap``. Not compiled by itself.

    Args:
      key: a typed random key.
      state: the start, made by :func:`init_selm`.
      num_rounds: how many rounds; static.
      prompt_fn: ``prompt_fn(key, round)`` gives the prompts of a round.
      sample_fn: draws answers, see :func:`collect`.
      score_fn: scores answers, see :func:`collect`.
      log_prob_fn: the model, see :func:`train_round`.
      optimizer: an optax transformation, see :func:`train_round`.
      config: the settings. With ``replay`` a state without buffer gets one that holds
        all rounds.
      explore_fn: makes the exploration answers, see :func:`collect`.
      bonus_fn: a term of one's own, see :func:`train_round`.
      record: ``record(state, batch)`` picks what to keep of each round, after it;
        None keeps the losses of its steps.

    Returns:
      The last state, and the records with a leading axis ``num_rounds``.

    Raises:
      ValueError: if ``num_rounds`` is not positive, or as in the two functions above.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import preference
      >>> state, losses = preference.run_selm(
      ...     jax.random.key(0),
      ...     preference.init_selm(jnp.zeros((1, 2))),
      ...     num_rounds=20,
      ...     prompt_fn=lambda key, round: None,
      ...     sample_fn=lambda key, logits, _: jax.random.categorical(key, logits),
      ...     score_fn=lambda answers: answers.astype(float),
      ...     log_prob_fn=lambda logits, y: jax.nn.log_softmax(logits)[0, y],
      ...     optimizer=optax.sgd(10.0),
      ...     config=preference.SelmConfig(alpha=0.0, beta=0.1))
      >>> print(losses.shape, bool(state.params[0, 1] > state.params[0, 0]))
      (20, 1) True

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithms 1 and 2.
    """
    checks.typed_key(key)
    checks.at_least("num_rounds", num_rounds, 1)

    draw = functools.partial(
        collect,
        sample_fn=sample_fn,
        score_fn=score_fn,
        explore_fn=explore_fn,
        config=config,
    )
    train = functools.partial(
        train_round,
        log_prob_fn=log_prob_fn,
        optimizer=optimizer,
        config=config,
        bonus_fn=bonus_fn,
    )

    def gather(key: Key, state: SelmState) -> SelmBatch:
        prompt_key, key = jax.random.split(key)
        return draw(key, state, prompt_fn(prompt_key, state.round))

    def one(carry: tuple[SelmState, Key], _: None) -> Any:
        state, key = carry
        key, round_key = jax.random.split(key)
        batch = gather(round_key, state)
        state, losses = train(state, batch)
        return (state, key), losses if record is None else record(state, batch)

    if config.replay and state.replay is None:
        like = jax.eval_shape(gather, key, state)
        state = state._replace(replay=init_replay(like, num_rounds=num_rounds))
    # The key is carried: JAX's check of key reuse takes keys that vmap batches and
    # scan slices for used twice.
    (state, _), records = jax.lax.scan(one, (state, key), length=num_rounds)
    return state, records
