import dataclasses
import shutil

import _common as common
import _selm_transformer as lab
import jax
import jax.numpy as jnp
import numpy as np
import preference_selm_transformer as example
import pytest

CONFIG = example.Config(
    num_seeds=2,
    num_classes=2,
    num_answers=5,
    features=8,
    num_layers=1,
    start_steps=60,
    start_rate=3e-2,
    start_batch=16,
    num_rounds=4,
    batch=8,
    num_steps=3,
    rate=1e-2,
    block=2,
    rho=-2.0,
    alphas=(),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformer")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


def test_the_table_and_the_files_are_complete(run):
    folder, measured = run
    methods = (example.DPO, example.GREEDY, example.SAMPLED, example.BOUNDED)
    for method in methods:
        assert 0 <= measured[f"{method}/reward"] <= 1
        seeds = [measured[f"{method}/seed {seed}"] for seed in range(2)]
        np.testing.assert_allclose(measured[f"{method}/reward"], np.mean(seeds))
    assert measured[f"{example.DPO}/gain"] == 0
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "preference_selm_transformer.json",
        "preference_selm_transformer.png",
    }


def test_the_start_fits_the_reference(run):
    assert run[1]["start/divergence"] < 0.05


@pytest.mark.slow
def test_an_interrupted_run_gives_the_same_numbers(run):
    folder, measured = run
    shutil.rmtree(folder / "checkpoints" / "prob_ratio" / "4")
    kept = folder / "checkpoints" / "log_ratio" / "4"
    written = kept.stat().st_mtime_ns
    config = dataclasses.replace(CONFIG, output=folder, resume=True)
    assert example.main(config) == measured
    assert kept.stat().st_mtime_ns == written


def test_scores_are_those_of_whole_answers():
    model = lab.Model(CONFIG)

    @jax.jit
    def check(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        init_key, key = jax.random.split(key)
        params = model.init(init_key)
        prompts = jnp.tile(lab.sample_prompts(key, CONFIG.batch, CONFIG), (3, 1))
        tokens = jnp.arange(3 * CONFIG.batch) % CONFIG.num_answers
        whole = jnp.concatenate([prompts, tokens[:, None]], axis=1)
        where = jnp.broadcast_to(jnp.arange(5) == CONFIG.prompt_length, whole.shape)
        scored = model.policy(params).log_probs(whole, where=where)
        return model.log_probs(params, lab.Answers(prompts, tokens)), scored

    short, whole = check(jax.random.key(3))
    np.testing.assert_allclose(short, whole, rtol=1e-4, atol=1e-5)


def test_worlds_hide_one_best_answer():
    world = lab.sample_world(jax.random.key(3), CONFIG)
    np.testing.assert_allclose(jnp.sum(jnp.exp(world.ref_log_probs), 1), 1, rtol=1e-5)
    best = world.reward == 1.0
    np.testing.assert_array_equal(jnp.sum(best, axis=1), 1)
    np.testing.assert_allclose(world.ref_log_probs[best], CONFIG.rho, rtol=1e-6)


def test_the_paper_preset_takes_the_values_of_the_paper():
    config = common.parse(example.Config, ["--preset", "paper"])
    assert (config.beta, config.alpha, config.num_rounds) == (0.01, 1e-3, 3)
    assert config.batch == 128


@pytest.mark.experiment
def test_the_bounded_bonus_beats_iterative_dpo_in_the_mean_of_seeds():
    measured = example.main(example.Config(alphas=()))
    assert measured[f"{example.BOUNDED}/gain"] > 0.06
    assert measured[f"{example.BOUNDED}/found"] > measured[f"{example.DPO}/found"]
    first, last = (
        measured[f"{example.BOUNDED}/{when} round, reward of samples"]
        for when in ("first", "last")
    )
    assert last > first + 0.2
