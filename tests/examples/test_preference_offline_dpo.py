import dataclasses
import json
import math
import shutil

import _preference_offline as offline
import jax
import jax.numpy as jnp
import numpy as np
import optax
import preference_offline_dpo as example
import pytest

from jaxkit import preference

WORDS = ["add", "sub", "mul", "div", "sqrt", "exp", "log", "sin", "cos", "tan"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Options of a run on a file with a tie and an empty answer."""
    records = [
        {"prompt": f"{word}{i}:", "chosen": f" {word} it.", "rejected": f" it {word}"}
        for i in range(3)
        for word in WORDS
    ]
    records += [
        {"prompt": "tie:", "chosen": " same", "rejected": " same"},
        {"prompt": "none:", "chosen": "", "rejected": " some"},
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return example.Config(
        data=path,
        length=24,
        prompt=8,
        buckets=(),
        features=8,
        layers=1,
        heads=2,
        sft_steps=4,
        steps=4,
        batch_size=8,
        block=2,
        samples=3,
    )


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run on all devices, and what it wrote."""
    config = dataclasses.replace(tiny, output=tmp_path_factory.mktemp("whole"))
    return config, example.main(config)


def test_the_first_loss_is_log_2_through_the_stored_reference(whole):
    config, measured = whole
    assert measured["first loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert measured["start/margin"] == 0.0
    assert measured["start/reward accuracy"] == 0.0
    with np.load(config.output / "reference_train.npz") as file:
        assert file["logps"].shape[1] == 2
        assert np.all(file["logps"] < 0)


def test_a_run_writes_its_results(whole):
    config, measured = whole
    record = json.loads((config.output / "preference_offline_dpo.json").read_text())
    assert record["results"] == measured
    assert (config.output / "preference_offline_dpo.png").exists()
    assert all(np.isfinite(value) for value in measured.values())


def test_a_resumed_run_equals_the_uninterrupted_one(whole, tmp_path):
    config, measured = whole
    shutil.copytree(config.output, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "preference" / "4")
    kept = tmp_path / "checkpoints" / "preference" / "2"
    written = kept.stat().st_mtime_ns
    config = dataclasses.replace(config, output=tmp_path, resume=True)
    assert example.main(config) == measured
    assert kept.stat().st_mtime_ns == written


def two_steps(config: example.Config) -> tuple[np.ndarray, offline.Params]:
    """Takes two plain gradient steps, big enough to leave the reference."""
    setup = example.prepare(config)
    reference = setup.score_data(setup.params, setup.train)
    params, history = offline.fit(
        config,
        "preference",
        objective=offline.preference_objective(
            setup.score, preference.PreferenceConfig(loss_type=config.loss_type)
        ),
        params=setup.params,
        optimizer=offline.accumulated(optax.sgd(3.0), config.accumulate),
        batches=offline.make_batches(
            setup.train,
            reference,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            seed=config.seed,
        ),
        num_steps=2,
        mesh=setup.mesh,
        evaluate=lambda params: np.zeros(len(offline.METRICS)),
    )
    start = jax.tree.map(np.asarray, setup.params)
    moved = jax.tree.map(lambda new, old: np.asarray(new) - old, params, start)
    return history.loss, moved


@pytest.fixture(scope="module")
def on_one_device(tiny):
    return two_steps(dataclasses.replace(tiny, devices=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": 4},
        {"devices": 4, "vocab_shards": 2, "skip_masked": True},
        {"devices": 1, "accumulate": 4},
    ],
    ids=["data parallel", "sharded head", "accumulation"],
)
def test_other_ways_to_the_same_steps(tiny, on_one_device, changes):
    loss, moved = two_steps(dataclasses.replace(tiny, **changes))
    expected_loss, expected = on_one_device
    assert abs(expected_loss[1] - math.log(2)) > 1e-3
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5 * largest)


def test_ties_and_repeated_pairs_do_not_count(tiny):
    setup = example.prepare(dataclasses.replace(tiny, devices=1))
    objective = offline.preference_objective(
        lambda params, tokens, where: params,
        preference.PreferenceConfig(loss_type=("sigmoid", "sft")),
    )
    batch = setup.train.batch(0, batch_size=8, seed=0)
    valid = np.arange(8) < 5
    scored = offline.Scored(batch.tokens, batch.where, valid, np.zeros((8, 2)))
    logps = jnp.where(valid[:, None], -1.0, jnp.nan)
    loss, slopes = jax.value_and_grad(objective)(logps, scored)
    lengths = batch.where[:5, 0].sum(-1)
    expected = (5 * math.log(2) + np.sum(1 / lengths)) / 8
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.all(np.isfinite(slopes))
    assert np.all(slopes[5:] == 0.0)


def test_metrics_leave_ties_out(tiny):
    setup = example.prepare(dataclasses.replace(tiny, devices=1, held_out=0.9))
    data = setup.held_out
    assert data.ties.sum() == 1
    logps = np.tile(np.array([[-3.0, -5.0]]), (len(data), 1))
    logps[data.ties] = np.nan
    found = dict(
        zip(
            offline.METRICS,
            offline.measure(logps, np.full_like(logps, -4.0), data),
            strict=True,
        )
    )
    assert found["reward accuracy"] == found["likelihood accuracy"] == 1.0
    np.testing.assert_allclose(found["margin"], 2.0)
    np.testing.assert_allclose(found["chosen log-prob"], -3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, "`accumulate` must divide"),
        ({"loss_type": ("sigmoid", "sft")}, "`loss_weights` must have one"),
        ({"devices": 4, "vocab_shards": 3}, "`vocab_shards` must divide"),
        ({"loss_type": ("sigmod",)}, "sigmod"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        example.prepare(dataclasses.replace(tiny, **changes))
