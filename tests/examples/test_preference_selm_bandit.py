import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import preference_selm_bandit as example
import pytest

# All rounds and seeds of one rho, at half the prompts: compiling is most of the time.
CONFIG = example.Config(rhos=(-4.0,), alphas=(), num_prompts=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bandit")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


def reward(measured: dict[str, float], method: str) -> float:
    return measured[f"rho -4/{method}/reward"]


def test_a_greedy_answer_explores(run):
    _, measured = run
    dpo, selm = "iterative DPO", "SELM greedy y', alpha 0.9"
    assert reward(measured, selm) - reward(measured, dpo) >= 0.12
    found = [measured[f"rho -4/{method}/found"] for method in (selm, dpo)]
    assert found[0] / found[1] >= 2.0
    assert measured[f"rho -4/{selm}/coverage"] > 0.7


def test_a_sampled_answer_does_not(run):
    _, measured = run
    dpo = reward(measured, "iterative DPO")
    for method in (
        "SELM sampled y', alpha 0.5",
        "SELM sampled y', alpha 0.9",
        "SELM expectation, alpha 0.5",
    ):
        assert reward(measured, method) < dpo + 0.01


def test_plain_entropy_does_better_than_selm(run):
    _, measured = run
    entropy = reward(measured, "entropy bonus")
    assert entropy > reward(measured, "SELM greedy y', alpha 0.9") + 0.05


def test_files_are_written(run):
    folder, _ = run
    assert {path.name for path in folder.iterdir()} == {
        "preference_selm_bandit.json",
        "preference_selm_bandit.png",
    }


def test_the_problem_is_the_one_described():
    draw = jax.jit(lambda key: example.sample_problem(key, jnp.asarray(-4.0), CONFIG))
    problem = draw(jax.random.key(0))
    ref = np.asarray(problem.ref_log_probs)
    best = np.asarray(problem.best)
    np.testing.assert_array_equal(best.sum(-1), 1)
    np.testing.assert_allclose(ref[best], -4.0)
    np.testing.assert_allclose(np.exp(ref).sum(-1), 1.0, rtol=1e-5)
    reward = np.asarray(problem.reward)
    assert np.all(reward[best] == 1.0)
    assert 0.0 <= reward[~best].min() < reward[~best].max() < 0.6
    np.testing.assert_allclose(reward[~best].mean(), 0.3, atol=0.02)


def test_every_term_is_its_formula():
    rng = np.random.default_rng(0)
    logits, ref = (rng.standard_normal((3, 4)) for _ in range(2))
    explore = np.array([0, 3, 1])
    log_softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    policy, base = log_softmax(logits), log_softmax(ref)
    ratio = (policy - base)[np.arange(3), explore]
    expected = {
        "log_ratio": ratio,
        "prob_ratio": np.exp(np.minimum(ratio, 0.0)),
        "prob": np.exp(policy)[np.arange(3), explore],
        "expectation": (np.exp(base) * (policy - base)).sum(-1),
        "sloped ratio": np.exp(np.minimum(ratio, 0.0)) + np.maximum(ratio, 0.0),
        "entropy": (np.exp(policy) * policy).sum(-1),
    }
    assert tuple(expected) == example.TERMS
    for weights, name in zip(np.eye(6), example.TERMS, strict=True):
        got = example.exploration_term(
            jnp.asarray(weights, jnp.float32),
            jnp.asarray(logits, jnp.float32),
            jnp.asarray(ref, jnp.float32),
            jnp.asarray(explore),
        )
        np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.experiment
def test_the_table_at_full_size():
    measured = example.main(example.Config())
    # Pure NumPy, other seeds: reward of the greedy policy and share of best answers.
    expected = {
        "rho -3/iterative DPO": (0.733, 0.64),
        "rho -3/SELM greedy y', alpha 0.5": (0.890, 0.95),
        "rho -3/prob, greedy": (0.819, 0.97),
        "rho -4/iterative DPO": (0.562, 0.31),
        "rho -4/SELM greedy y', alpha 0.9": (0.753, 0.83),
        "rho -4/SELM sampled y', alpha 0.5": (0.553, 0.29),
        "rho -4/SELM expectation, alpha 0.5": (0.552, 0.30),
        "rho -4/prob_ratio + slope, greedy": (0.747, 0.78),
        "rho -4/prob, greedy": (0.805, 0.88),
        "rho -4/iterative DPO, noisy judge": (0.567, None),
        "rho -4/SELM greedy 0.9, noisy judge": (0.762, None),
        "rho -5/iterative DPO": (0.529, 0.13),
        "rho -5/SELM greedy y', alpha 0.9": (0.594, 0.37),
        "rho -5/prob_ratio + slope, greedy": (0.591, 0.36),
    }
    for name, (value, found) in expected.items():
        assert abs(measured[f"{name}/reward"] - value) < 0.03, name
        if found is not None:
            assert abs(measured[f"{name}/found"] - found) < 0.06, name
    # Too much optimism loses again.
    assert measured["rho -4/alpha 2/reward"] < measured["rho -4/alpha 0.7/reward"]
