"""The pool is counted, replaced and left alone as the algorithm says."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation
from jaxkit.distillation import DistillConfig, DistillMetrics, DistillState
from tests.distillation._tiny import INNER, NETWORK, data, parts, start

pytestmark = pytest.mark.usefixtures("quick_compile")

MODELS, INNER_STEPS = 3, 5
REAL = data(4, seed=1)


def config_of(**changes: Any) -> DistillConfig:
    usual = {"num_models": MODELS, "inner_steps": INNER_STEPS, "method": "cholesky"}
    return DistillConfig(**{**usual, **changes})


def many_steps(
    state: DistillState, config: DistillConfig, count: int
) -> tuple[DistillState, DistillMetrics]:
    step = distillation.make_distill_step(**parts(config))
    run = jax.jit(
        lambda state: jax.lax.scan(
            lambda carry, _: step(carry, *REAL), state, length=count
        )
    )
    return run(state)


@functools.cache
def compiled_step(config: DistillConfig) -> Any:
    return jax.jit(distillation.make_distill_step(**parts(config)))


def one_step(
    state: DistillState, config: DistillConfig
) -> tuple[DistillState, DistillMetrics]:
    return compiled_step(config)(state, *REAL)


def aged(state: DistillState, age: int) -> DistillState:
    pool = state.pool._replace(age=jnp.full_like(state.pool.age, age))
    return state._replace(pool=pool)


def leaves(tree: Any, index: int) -> list[np.ndarray]:
    return [np.asarray(leaf[index]) for leaf in jax.tree.leaves(tree)]


def test_a_network_is_replaced_once_in_every_cycle_of_its_selections():
    config = config_of()
    state = start(config)
    first = np.asarray(state.pool.age)
    end, metrics = many_steps(state, config, 1000)
    models, ages = metrics.models[:, 0], metrics.ages[:, 0]
    for index in range(MODELS):
        seen = np.asarray(ages[models == index])
        assert len(seen) > 250
        cycle = (first[index] + np.arange(len(seen) + 1)) % (INNER_STEPS + 1)
        np.testing.assert_array_equal(seen, cycle[:-1])
        assert end.pool.age[index] == cycle[-1]
    assert end.step == 1000


def test_a_network_at_its_age_is_replaced_and_the_others_are_not_touched():
    config = config_of()
    state = aged(start(config), INNER_STEPS)
    state = state._replace(
        pool=state.pool._replace(
            opt_state=jax.tree.map(lambda x: x + 1, state.pool.opt_state)
        )
    )
    after, metrics = one_step(state, config)
    chosen = int(metrics.models[0])
    fresh = jax.tree.map(lambda x: x[chosen], after.pool)
    assert fresh.age == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(fresh.opt_state))
    assert not np.any(fresh.batch_stats["mean"])
    for old, new in zip(
        leaves(state.pool.params, chosen),
        leaves(after.pool.params, chosen),
        strict=True,
    ):
        assert np.all(old != new)
    for index in set(range(MODELS)) - {chosen}:
        for old, new in zip(
            leaves(state.pool, index), leaves(after.pool, index), strict=True
        ):
            np.testing.assert_array_equal(old, new)


def test_every_replacement_is_another_network():
    config = config_of()
    state = start(config)
    seen = []
    for _ in range(3):
        state, metrics = one_step(aged(state, INNER_STEPS), config)
        seen.append(np.asarray(state.pool.params["hidden"][metrics.models[0]]))
    assert np.all(seen[0] != seen[1])
    assert np.all(seen[1] != seen[2])


def test_a_young_network_makes_one_inner_step_on_the_new_pairs():
    config = config_of()
    state = start(config)
    after, metrics = one_step(aged(state, 2), config)
    chosen = int(metrics.models[0])
    assert after.pool.age[chosen] == 3
    assert np.any(after.synthetic.images != state.synthetic.images)
    model = jax.tree.map(lambda x: x[chosen], state.pool)
    expected = distillation.inner_step(
        model, after.synthetic, network=NETWORK, optimizer=INNER
    )
    for a, b in zip(
        jax.tree.leaves(expected._replace(age=0)),
        jax.tree.leaves(jax.tree.map(lambda x: x[chosen], after.pool)._replace(age=0)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # The statistics moved once, by the batch of the new pairs: evaluation of the
    # outer loss left them alone.
    before = np.asarray(after.synthetic.images).reshape(3, -1) @ model.params["hidden"]
    moved = 0.9 * model.batch_stats["mean"] + 0.1 * before.mean(0)
    np.testing.assert_allclose(
        after.pool.batch_stats["mean"][chosen], moved, rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_always_fresh_networks_are_never_trained():
    config = config_of(reset="always_fresh")
    state = start(config)
    assert not np.any(state.pool.age)
    end, metrics = many_steps(state, config, 12)
    assert not np.any(metrics.ages)
    assert not np.any(end.pool.batch_stats["mean"])
    for index in set(np.asarray(metrics.models[:, 0]).tolist()):
        assert np.all(
            end.pool.params["head"][index] != state.pool.params["head"][index]
        )


@pytest.mark.slow
def test_without_a_new_count_nearly_all_steps_use_untrained_networks():
    # The released code at its own sizes: more than 19 of 20 steps.
    config = config_of(num_models=10, inner_steps=1000, reset="never_recount")
    state = start(config, count=2)
    end, metrics = many_steps(state, config, 160_000)
    models, ages = np.asarray(metrics.models[:, 0]), np.asarray(metrics.ages[:, 0])
    fresh = np.zeros(len(ages), bool)
    for index in range(10):
        places = np.flatnonzero(models == index)
        expired = np.flatnonzero(ages[places] == 1000)
        fresh[places[expired[0] + 1 :]] = True
    # Each network is used until its count has ended, and never again once trained.
    assert np.sum(~fresh) == np.sum(1001 - np.asarray(state.pool.age))
    assert 0.95 < fresh.mean() < 0.99
    assert np.flatnonzero(~fresh)[-1] < 12_000
    assert np.all(end.pool.age == 1000)


def test_the_first_ages_are_mixed_and_trained():
    config = config_of(num_models=40, inner_steps=4)
    ages = np.asarray(start(config).pool.age)
    assert set(ages.tolist()) == {1, 2, 3}
    even = start(config_of(num_models=4, inner_steps=8, first_ages="even"))
    np.testing.assert_array_equal(even.pool.age, [0, 2, 4, 6])
    # Whatever the key, this network starts the same: members differ by age alone.
    same = NETWORK._replace(init=lambda key: NETWORK.init(jax.random.key(7)))
    state = start(
        config_of(num_models=2, inner_steps=4, first_ages="even"), network=same
    )
    model = jax.tree.map(lambda x: x[0], state.pool)
    for _ in range(2):
        model = distillation.inner_step(
            model, state.synthetic, network=same, optimizer=INNER
        )
    for a, b in zip(jax.tree.leaves(model), leaves(state.pool, 1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_all_networks_may_be_trained_in_every_step():
    config = config_of(pool_update="all")
    state = start(config)
    first = np.asarray(state.pool.age)
    end, metrics = many_steps(state, config, 8)
    np.testing.assert_array_equal(end.pool.age, (first + 8) % (INNER_STEPS + 1))
    assert metrics.models.shape == (8, 1)


@pytest.mark.slow
def test_several_networks_are_drawn_without_replacement():
    config = config_of(models_per_step=2)
    end, metrics = many_steps(start(config), config, 30)
    models = np.asarray(metrics.models)
    assert models.shape == (30, 2)
    assert np.all(models[:, 0] != models[:, 1])
    assert set(models.ravel().tolist()) == set(range(MODELS))
    assert np.all(end.pool.age <= INNER_STEPS)


@pytest.mark.slow
def test_inner_batches_are_drawn_anew():
    config = config_of(inner_batch_size=1, num_models=1)
    state = aged(start(config), 1)
    old = np.asarray(state.pool.batch_stats["mean"][0])
    drawn = []
    for step in range(6):
        after, _ = one_step(state._replace(step=jnp.int32(step)), config)
        # The statistics tell which image the network saw.
        flat = np.asarray(after.synthetic.images).reshape(3, -1)
        hidden = np.asarray(state.pool.params["hidden"][0])
        candidates = 0.9 * old + 0.1 * flat @ hidden
        seen = np.asarray(after.pool.batch_stats["mean"][0])
        error = np.abs(candidates - seen).max(1)
        assert error.min() < 1e-6
        drawn.append(int(error.argmin()))
    assert len(set(drawn)) > 1
