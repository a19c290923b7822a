import dataclasses
import json
import math
import shutil

import _preference_offline as offline
import _preference_samples as sampling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import preference_offline_dpo as example
import pytest
from _preference_data import ByteTokenizer, Limits, Pair, PairData

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
        sft_steps=0,
        steps=4,
        batch_size=8,
        block=2,
        samples=0,
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
    np.testing.assert_equal(record["results"], measured)
    assert (config.output / "preference_offline_dpo.png").exists()
    assert all(np.isfinite(v) for name, v in measured.items() if name != "KL")


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one(whole, tmp_path):
    config, measured = whole
    shutil.copytree(config.output, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "preference" / "4")
    kept = tmp_path / "checkpoints" / "preference" / "2"
    kept = (kept, tmp_path / "reference_train.npz")
    written = [path.stat().st_mtime_ns for path in kept]
    config = dataclasses.replace(config, output=tmp_path, resume=True)
    np.testing.assert_equal(example.main(config), measured)
    assert [path.stat().st_mtime_ns for path in kept] == written


def two_steps(config: example.Config) -> tuple[np.ndarray, offline.Params]:
    """Takes two plain gradient steps, big enough to leave the reference."""
    setup = example.prepare(config)
    objective = offline.preference_objective(
        setup.score, preference.PreferenceConfig(loss_type="sigmoid")
    )
    reference = np.full((len(setup.train), 2), -20.0, np.float32)
    params, history = offline.fit(
        config,
        "preference",
        objective=objective,
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
        {"devices": 4, "vocab_shards": 2, "skip_masked": True, "accumulate": 2},
        pytest.param({"devices": 4}, marks=pytest.mark.slow),
        pytest.param({"devices": 1, "accumulate": 8}, marks=pytest.mark.slow),
    ],
    ids=["sharded head, skipping, accumulation", "data parallel", "accumulation"],
)
def test_other_ways_to_the_same_steps(tiny, on_one_device, changes):
    loss, moved = two_steps(dataclasses.replace(tiny, **changes))
    expected_loss, expected = on_one_device
    assert abs(expected_loss[1] - expected_loss[0]) > 1e-3
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


def test_metrics_leave_ties_out():
    pairs = [Pair("p", "a", "b"), Pair("p", "tie", "tie"), Pair("p", "cc", "d")]
    data = PairData(pairs, ByteTokenizer(), Limits(length=8, prompt=2))
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
        ({"loss_weights": (1.0, 0.5)}, "`weights` must have one"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"devices": 4, "vocab_shards": 3}, "`vocab_shards` must divide"),
        ({"loss_type": ("sigmod",)}, "sigmod"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        example.prepare(dataclasses.replace(tiny, **changes))


@pytest.mark.slow
def test_samples_estimate_the_divergence(tiny):
    setup = example.prepare(dataclasses.replace(tiny, devices=1))
    moved = jax.tree.map(lambda leaf: 1.5 * leaf, setup.params)

    def sample(params: offline.Params) -> sampling.Samples:
        return sampling.sample_answers(
            setup.graphdef,
            params,
            setup.params,
            setup.held_out,
            limit=4,
            prompt=8,
            end=257,
            key=jax.random.key(0),
        )

    assert sample(setup.params).kl == 0.0
    samples = sample(moved)
    rows = list(zip(samples.prompts, samples.answers, strict=True))
    ratios = []
    for prompt, answer in rows:
        tokens = np.concatenate([prompt, answer])[None, None]
        where = np.arange(tokens.shape[-1])[None, None] >= len(prompt)
        new, old = (setup.score(p, tokens, where) for p in (moved, setup.params))
        ratios.append((new - old).item())
    np.testing.assert_allclose(samples.kl, np.mean(ratios), rtol=1e-4)
    np.testing.assert_allclose(
        samples.standard_error, np.std(ratios, ddof=1) / np.sqrt(len(ratios)), rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16", "loss_type": ("ipo", "sft"), "loss_weights": (1.0, 0.5)},
        {"loss_type": ("aot",), "buckets": (16,), "too_long": "drop", "samples": 2},
        {"loss_type": ("orpo",), "vocab_shards": 4, "label_smoothing": 0.1},
    ],
    ids=["bfloat16 and a mixture", "a sorted batch and buckets", "no reference"],
)
def test_other_options_run(tiny, changes):
    measured = example.main(dataclasses.replace(tiny, sft_steps=3, **changes))
    values = (v for k, v in measured.items() if k != "KL" or "samples" in changes)
    assert all(np.isfinite(value) for value in values)
    assert measured["end/chosen log-prob"] != measured["start/chosen log-prob"]


@pytest.mark.slow
def test_docstrings_make_pairs_to_train_on():
    config = example.Config()
    train, held_out = example.load(config, example.make_tokenizer(config))
    assert len(train) > 400
    assert len(held_out) > 100
    prompts = [{pair.prompt for pair in data.texts} for data in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert train.ties.sum() == held_out.ties.sum() == 0
