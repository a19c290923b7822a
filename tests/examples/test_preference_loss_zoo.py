import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import preference_loss_zoo as example
import pytest

CONFIG = example.Config(losses=("sigmoid",), prompts=24, answers=6, features=4, steps=5)


@pytest.fixture(scope="module")
def tasks():
    draw = jax.jit(lambda key: example.make_task(CONFIG, key))
    return draw(jax.random.key(3))


measure = jax.jit(example.measure)


def test_every_loss_is_drawn():
    drawn = [name for names in example.FAMILIES.values() for name in names]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) == set(example.NAMES) - {"aot_unpaired"}


def test_grids_have_one_size():
    assert all(len(x) == len(example.BETAS) for x in example.OTHER_BETAS.values())


def test_the_curve_of_the_logistic_loss():
    difference = np.linspace(-8.0, 8.0, 5, dtype=np.float32)
    value, slopes = example.curve("sigmoid", difference)
    np.testing.assert_allclose(value, np.log1p(np.exp(-difference)), rtol=1e-6)
    pull = 1 / (1 + np.exp(difference))
    np.testing.assert_allclose(slopes.chosen, -pull, rtol=1e-5)
    np.testing.assert_allclose(slopes.rejected, pull, rtol=1e-5)


def test_pairs_are_two_answers_and_labels_follow_the_reward(tasks):
    for task in tasks:
        features, rewards, refs = map(np.asarray, task[:3])
        places = [
            np.argmin(
                np.abs(features[:, None] - task.pair_features[:, :, None, i]).sum(-1),
                axis=-1,
            )
            for i in (0, 1)
        ]
        assert np.all(places[0] != places[1])
        rows = np.arange(CONFIG.prompts)[:, None]
        for i in (0, 1):
            np.testing.assert_array_equal(
                task.pair_log_probs[..., i], refs[rows, places[i]]
            )
        better = rewards[rows, places[0]] > rewards[rows, places[1]]
        assert 0.65 < better.mean() < 1.0
        np.testing.assert_allclose(np.exp(refs).sum(-1), 1.0, rtol=1e-5)


def test_log_probs_of_pairs_are_those_of_the_policy(tasks):
    task = tasks[0]
    weights = jnp.linspace(-1.0, 1.0, CONFIG.features)
    log_probs = np.asarray(example.log_policy(task, weights))
    pair = example.pair_logps(task, weights)
    chosen = np.asarray(pair.chosen).reshape(CONFIG.prompts, CONFIG.pairs)
    distance = np.abs(log_probs[:, None] - chosen[..., None]).min(axis=-1)
    np.testing.assert_allclose(distance, 0.0, atol=1e-5)
    np.testing.assert_array_equal(
        pair.ref_rejected, task.pair_log_probs[..., 1].ravel()
    )


def test_the_reference_has_outcome_0(tasks):
    outcome = measure(*tasks, jnp.zeros(CONFIG.features))
    assert abs(outcome.expected) < 1e-6
    assert abs(outcome.kl) < 1e-6
    assert abs(outcome.chosen) < 1e-5


def test_outcomes_equal_sums_over_the_answers(tasks):
    weights = jnp.linspace(-1.0, 1.0, CONFIG.features)
    outcome = measure(*tasks, weights)
    test = jax.tree.map(lambda x: np.asarray(x, np.float64), tasks[1])
    logits = test.ref_log_probs + test.features @ np.asarray(weights, np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    start = np.mean(np.sum(np.exp(test.ref_log_probs) * test.rewards, -1))
    span = test.rewards.max(-1).mean() - start
    greedy = np.mean([r[p.argmax()] for r, p in zip(test.rewards, probs, strict=True)])
    kl = np.mean(np.sum(probs * (np.log(probs) - test.ref_log_probs), -1))
    expected = np.mean(np.sum(probs * test.rewards, -1))
    np.testing.assert_allclose(outcome.greedy, (greedy - start) / span, rtol=1e-4)
    np.testing.assert_allclose(outcome.expected, (expected - start) / span, rtol=1e-4)
    np.testing.assert_allclose(outcome.kl, kl, rtol=1e-4)


def test_the_searched_number_of_orpo_is_its_weight():
    assert example.settings("orpo", 3.0).orpo_weight == 3.0
    assert example.settings("ipo", 3.0).beta == 3.0


def test_training_beats_the_reference(tasks):
    run = jax.jit(lambda *numbers: example.train(CONFIG, "sigmoid", *tasks, *numbers))
    outcome = run(0.1, 0.3)
    assert outcome.greedy > 0.3
    assert outcome.accuracy > 0.6
    assert outcome.kl > 0.0


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="got sigmod"):
        example.main(dataclasses.replace(CONFIG, losses=("sigmod",)))


@pytest.mark.experiment
def test_every_loss_trains_and_has_a_shape(tmp_path):
    config = dataclasses.replace(
        CONFIG, losses=example.NAMES, steps=20, output=tmp_path
    )
    measured = example.main(config)
    assert all(np.isfinite(value) for value in measured.values())
    assert measured["sft/kl"] < measured["sigmoid/kl"]
    record = json.loads((tmp_path / "preference_loss_zoo.json").read_text())
    assert record["results"] == measured
    for name in ("preference_loss_zoo", "preference_loss_zoo_shapes"):
        assert (tmp_path / f"{name}.png").exists()
