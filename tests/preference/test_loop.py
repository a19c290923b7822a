"""The online loop on tables: one answer is an index, the policy a row of logits."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import preference
from jaxkit.preference import SelmBatch, SelmConfig, SelmState

PROMPTS, ANSWERS = 6, 5
REWARD = np.random.default_rng(0).uniform(0.0, 1.0, (PROMPTS, ANSWERS))
LOGITS = np.random.default_rng(1).standard_normal((PROMPTS, ANSWERS))
ROWS = np.arange(PROMPTS)


def log_prob_fn(logits: jax.Array, answers: jax.Array) -> jax.Array:
    rows = jnp.arange(answers.shape[0]) % PROMPTS
    return jax.nn.log_softmax(logits)[rows, answers]


def sample_fn(key: jax.Array, logits: jax.Array, prompts: Any) -> jax.Array:
    return jax.random.categorical(key, logits)


def greedy_fn(key: jax.Array, logits: jax.Array, prompts: Any) -> jax.Array:
    return jnp.argmax(logits, axis=-1)


def score_fn(answers: jax.Array) -> jax.Array:
    return jnp.asarray(REWARD, jnp.float32)[jnp.arange(PROMPTS), answers]


def start(dtype: Any = jnp.float32, **options: Any) -> SelmState:
    return preference.init_selm(jnp.asarray(LOGITS, dtype), **options)


def batch_of(seed: int = 2) -> SelmBatch:
    """A batch with one tied pair, and one exploration answer that does not count."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, ANSWERS, PROMPTS)
    rejected = (chosen + rng.integers(1, ANSWERS, PROMPTS)) % ANSWERS
    where, explore_where = ROWS != 1, ROWS != 4
    answers = (chosen, rejected, LOGITS.argmax(-1))
    return SelmBatch(*map(jnp.asarray, (*answers, where, explore_where)))


def train_round(
    state: SelmState,
    batch: SelmBatch,
    config: SelmConfig,
    optimizer: optax.GradientTransformation,
    **options: Any,
) -> tuple[SelmState, jax.Array]:
    return preference.train_round(
        state,
        batch,
        log_prob_fn=log_prob_fn,
        optimizer=optimizer,
        config=config,
        **options,
    )


SGD = optax.sgd(1.0)
# One compiled function for all tests: a new lambda would compile anew.
TRAIN = jax.jit(train_round, static_argnames=("optimizer", "bonus_fn"))


def train(
    state: SelmState,
    batch: SelmBatch,
    config: SelmConfig,
    optimizer: optax.GradientTransformation = SGD,
    **options: Any,
) -> tuple[SelmState, jax.Array]:
    return TRAIN(state, batch, config, optimizer, **options)


def by_hand(
    logits: np.ndarray, ref: np.ndarray, batch: SelmBatch, alpha: float, beta: float
) -> np.ndarray:
    """The gradient of the mean loss in the logits, from the formulas of the theory."""
    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    one = lambda index: np.eye(ANSWERS)[np.asarray(index)]
    difference = one(batch.chosen) - one(batch.rejected)
    margin = beta * (difference * (logits - ref)).sum(-1)
    wrong = np.where(batch.where, 1 / (1 + np.exp(margin)), 0.0)
    explore = np.where(batch.explore_where, alpha * beta, 0.0)
    slope = -beta * wrong[:, None] * difference
    return (slope + explore[:, None] * (one(batch.explore) - policy)) / PROMPTS


def test_two_steps_equal_the_formulas(x64: None):
    config = SelmConfig(alpha=0.3, beta=0.2, num_steps=2)
    state, losses = train(start(jnp.float64), batch_of(), config)
    logits = LOGITS
    for _ in range(2):
        logits = logits - by_hand(logits, LOGITS, batch_of(), 0.3, 0.2)
    np.testing.assert_allclose(state.params, logits, rtol=1e-12)
    assert losses.shape == (2,)
    # Five of the six pairs count; at the reference the bonus is 0.
    np.testing.assert_allclose(losses[0], np.log(2) * 5 / 6, rtol=1e-12)


def test_the_first_loss_is_exactly_log_2():
    batch = batch_of()._replace(where=jnp.ones(PROMPTS, bool))
    _, losses = train(start(), batch, SelmConfig(alpha=0.5, beta=0.1))
    assert float(losses[0]) == float(np.float32(np.log(2)))


def test_the_reference_moves_as_told():
    batch = batch_of()
    copied, _ = train(start(), batch, SelmConfig(beta=0.1))
    chex.assert_trees_all_equal(copied.params, copied.ref_params)
    assert np.any(np.asarray(copied.params) != np.float32(LOGITS))
    assert int(copied.round) == 1
    mixed, _ = train(start(), batch, SelmConfig(beta=0.1, mix=0.25))
    expected = 0.25 * mixed.params + 0.75 * np.float32(LOGITS)
    np.testing.assert_allclose(mixed.ref_params, expected, rtol=1e-6)
    fixed, _ = train(start(), batch, SelmConfig(beta=0.1, update_reference=False))
    np.testing.assert_array_equal(fixed.ref_params, np.float32(LOGITS))
    np.testing.assert_array_equal(fixed.params, copied.params)


def test_a_copied_reference_may_exclude_answers():
    state = preference.init_selm({"logits": jnp.zeros(2), "steps": jnp.asarray(3)})
    new = {"logits": jnp.array([0.0, -jnp.inf]), "steps": jnp.asarray(5)}
    moved = preference.update_reference(state._replace(params=new), mix=1.0)
    chex.assert_trees_all_equal(moved.ref_params, new)


def test_alpha_follows_its_schedule():
    batch, schedule = batch_of(), optax.linear_schedule(1.0, 0.0, 4)
    config = SelmConfig(alpha=0.8, beta=0.1, alpha_schedule=schedule)
    for round, alpha in ((0, 0.8), (3, 0.2), (4, 0.0)):
        state = start()._replace(round=jnp.asarray(round))
        scheduled, _ = train(state, batch, config)
        constant, _ = train(start(), batch, SelmConfig(alpha=alpha, beta=0.1))
        np.testing.assert_allclose(scheduled.params, constant.params, rtol=1e-6)


def test_without_alpha_the_exploration_answers_do_not_matter():
    batch = batch_of()
    other = batch._replace(explore=(batch.explore + 1) % ANSWERS)
    first, _ = train(start(), batch, SelmConfig(alpha=0.0, beta=0.1))
    second, _ = train(start(), other, SelmConfig(alpha=0.0, beta=0.1))
    chex.assert_trees_all_equal(first, second)


def test_the_optimizer_forgets_or_remembers():
    optimizer = optax.sgd(1.0, momentum=0.9)
    batch, config = batch_of(), SelmConfig(alpha=0.3, beta=0.1)
    forgets, _ = train(start(), batch, config, optimizer)
    assert forgets.opt_state is None
    keeps, _ = train(start(optimizer=optimizer), batch, config, optimizer)
    chex.assert_trees_all_equal(forgets.params, keeps.params)
    forgets, _ = train(forgets, batch, config, optimizer)
    keeps, _ = train(keeps, batch, config, optimizer)
    assert np.max(np.abs(np.asarray(forgets.params - keeps.params))) > 1e-3


def test_replay_trains_on_all_rounds_and_then_overwrites_the_oldest():
    batches = [batch_of(seed) for seed in (2, 3, 4)]
    config = SelmConfig(alpha=0.3, beta=0.1)
    buffer = preference.init_replay(batches[0], num_rounds=2)
    state = start(replay=buffer)
    seen: list[SelmBatch] = []
    for batch in batches:
        plain = state._replace(replay=None)
        seen = [*seen, batch][-2:]
        together = jax.tree.map(lambda *xs: jnp.concatenate(xs), *seen)
        expected, _ = train(plain, together, config)
        state, _ = train(state, batch, config)
        np.testing.assert_allclose(state.params, expected.params, atol=1e-6)
    np.testing.assert_array_equal(state.replay.chosen[0], batches[2].chosen)


def test_a_bonus_of_ones_own():
    def expectation(logits: jax.Array, ref: jax.Array, batch: SelmBatch) -> jax.Array:
        policy, ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref)
        return jnp.sum(jnp.exp(ref) * (policy - ref), axis=-1)

    def log_ratio(logits: jax.Array, ref: jax.Array, batch: SelmBatch) -> jax.Array:
        return log_prob_fn(logits, batch.explore) - log_prob_fn(ref, batch.explore)

    batch, config = batch_of(), SelmConfig(alpha=0.4, beta=0.1, sign=-1.0)
    own, _ = train(start(), batch, config, bonus_fn=log_ratio)
    built_in, _ = train(start(), batch, config)
    np.testing.assert_allclose(own.params, built_in.params, rtol=1e-6)
    # At the reference the exact expectation over y' moves nothing.
    silent, _ = train(start(), batch, config, bonus_fn=expectation)
    dpo, _ = train(start(), batch, SelmConfig(alpha=0.0, beta=0.1))
    np.testing.assert_allclose(silent.params, dpo.params, atol=1e-7)


@jax.jit(static_argnames=("sample_fn", "score_fn", "explore_fn"))
def collect(
    seed: jax.Array, state: SelmState, config: SelmConfig, **options: Any
) -> SelmBatch:
    options = {"sample_fn": sample_fn, "score_fn": score_fn, **options}
    return preference.collect(
        jax.random.key(seed), state, None, config=config, **options
    )


def test_collected_pairs_are_ranked_and_ties_do_not_count():
    batch = collect(0, start(), SelmConfig(), explore_fn=greedy_fn)
    better, worse = score_fn(batch.chosen), score_fn(batch.rejected)
    np.testing.assert_array_equal(batch.where, better > worse)
    np.testing.assert_array_equal(batch.explore, LOGITS.argmax(-1))
    assert batch.explore_where.all()
    sure = start()._replace(params=jnp.where(jnp.arange(ANSWERS) == 2, 0.0, -jnp.inf))
    sure = sure._replace(params=jnp.broadcast_to(sure.params, (PROMPTS, ANSWERS)))
    batch = collect(0, sure, SelmConfig(label_scale=1.0), explore_fn=greedy_fn)
    np.testing.assert_array_equal(batch.chosen, 2)
    assert not batch.where.any(), "two equal answers make no pair, noise or not"


def test_exploration_answers_come_from_the_reference():
    state = start()._replace(ref_params=jnp.asarray(-LOGITS, jnp.float32))
    batch = collect(0, state, SelmConfig(), explore_fn=greedy_fn)
    np.testing.assert_array_equal(batch.explore, LOGITS.argmin(-1))
    one_hot = jnp.where(jnp.arange(ANSWERS) == 3, 0.0, -jnp.inf)
    state = state._replace(ref_params=jnp.broadcast_to(one_hot, LOGITS.shape))
    sampled = collect(0, state, SelmConfig())
    np.testing.assert_array_equal(sampled.explore, 3)


def test_algorithm_1_ranks_the_pair_of_a_dataset_with_one_greedy_answer():
    given = jnp.stack([jnp.zeros(PROMPTS, int), jnp.ones(PROMPTS, int)])
    batch = collect(
        0,
        start(),
        SelmConfig(num_samples=0, rank_explore=True),
        explore_fn=greedy_fn,
        candidates=given,
    )
    three = np.stack([LOGITS.argmax(-1), np.zeros(PROMPTS, int), np.ones(PROMPTS, int)])
    scores = REWARD[ROWS, three]
    np.testing.assert_array_equal(batch.chosen, three[scores.argmax(0), ROWS])
    assert np.all(np.asarray(score_fn(batch.rejected)) <= scores.min(0) + 1e-7)


def test_a_noisy_judge_follows_bradley_terry():
    both = jnp.stack([jnp.zeros(PROMPTS, int), jnp.ones(PROMPTS, int)])
    label = lambda key: preference.collect(
        key,
        start(),
        None,
        sample_fn=sample_fn,
        score_fn=score_fn,
        config=SelmConfig(num_samples=0, label_scale=3.0),
        candidates=both,
    )
    keys = jax.random.split(jax.random.key(5), 4000)
    chosen = jax.jit(jax.vmap(label))(keys).chosen
    expected = 1 / (1 + np.exp(-3.0 * (REWARD[:, 0] - REWARD[:, 1])))
    np.testing.assert_allclose((chosen == 0).mean(0), expected, atol=0.032)


def play(key: jax.Array, config: SelmConfig, rate: jax.Array) -> Any:
    return preference.run_selm(
        key,
        start(),
        num_rounds=3,
        prompt_fn=lambda key, round: None,
        sample_fn=sample_fn,
        score_fn=score_fn,
        explore_fn=greedy_fn,
        log_prob_fn=log_prob_fn,
        optimizer=optax.sgd(rate),
        config=config,
        record=lambda state, batch: (batch, state.params),
    )


def test_one_program_runs_all_rounds_of_all_seeds_and_settings():
    alphas, rates = jnp.array([0.0, 0.4]), jnp.array([1.0, 1.0])

    @jax.jit
    @chex.assert_max_traces(1)
    def everything(keys: jax.Array, alphas: jax.Array, rates: jax.Array) -> Any:
        def one(key: jax.Array, alpha: jax.Array, rate: jax.Array) -> Any:
            settings = SelmConfig(alpha=alpha, beta=0.1, num_steps=2, replay=True)
            return play(key, settings, rate)

        seeds = jax.vmap(one, in_axes=(0, None, None))
        return jax.vmap(seeds, in_axes=(None, 0, 0))(keys, alphas, rates)

    keys = jax.random.split(jax.random.key(3), 2)
    everything(jax.random.clone(keys), alphas + 0.1, 2 * rates)
    last, (batches, params) = everything(keys, alphas, rates)
    assert params.shape == (2, 2, 3, PROMPTS, ANSWERS)
    np.testing.assert_array_equal(last.round, 3)
    chex.assert_trees_all_equal(last.params, params[:, :, -1])
    chex.assert_trees_all_equal(last.replay, batches)
    assert np.any(np.asarray(batches.chosen[0, 0] != batches.chosen[0, 1]))
    # Each run is collecting and training in turns.
    for setting, seed in np.ndindex(2, 2):
        rounds = jax.tree.map(lambda x, s=setting, k=seed: x[s, k], batches)
        first = batches_at(rounds, 0)
        state = start(replay=preference.init_replay(first, num_rounds=3))
        settings = SelmConfig(alpha=alphas[setting], beta=0.1, num_steps=2)
        for i in range(3):
            batch = batches_at(rounds, i)
            explore = np.asarray(state.ref_params).argmax(-1)
            np.testing.assert_array_equal(batch.explore, explore)
            state, _ = train(state, batch, settings)
            np.testing.assert_allclose(
                params[setting, seed, i], state.params, atol=1e-5
            )


def batches_at(batches: SelmBatch, index: int) -> SelmBatch:
    return jax.tree.map(lambda x: x[index], batches)


def test_bad_calls_are_refused_with_a_reason():
    batch, config = batch_of(), SelmConfig(beta=0.1)
    with pytest.raises(ValueError, match=r"must be one of 'log_ratio'.*got 'curious'"):
        train(start(), batch, SelmConfig(bonus="curious"))
    with pytest.raises(
        ValueError, match=r"`log_prob_fn` must return \(18,\), got \(\)"
    ):
        preference.train_round(
            start(),
            batch,
            log_prob_fn=lambda params, answers: jnp.zeros(()),
            optimizer=optax.sgd(1.0),
            config=config,
        )
    with pytest.raises(ValueError, match=r"`bonus_fn`.*\(1,\) and \(6,\)"):
        train(start(), batch, config, bonus_fn=lambda *_: jnp.zeros(1))
    with pytest.raises(ValueError, match=r"`score_fn` must return \(6,\), got \(2,\)"):
        collect(0, start(), config, score_fn=lambda answers: jnp.zeros(2))
    with pytest.raises(ValueError, match=r"`num_samples` must be positive"):
        collect(0, start(), SelmConfig(num_samples=0))
    with pytest.raises(ValueError, match=r"`beta` must be positive, got -1"):
        SelmConfig(beta=-1)
    with pytest.raises(ValueError, match=r"`num_steps` must be at least 1, got 0"):
        SelmConfig(num_steps=0)
    with pytest.raises(ValueError, match=r"`num_rounds` must be at least 1, got 0"):
        preference.init_replay(batch, num_rounds=0)
    with pytest.raises(TypeError, match=r"`key` must be a typed key"):
        preference.collect(
            jnp.zeros(2),
            start(),
            None,
            config=config,
            sample_fn=sample_fn,
            score_fn=score_fn,
        )
