import dataclasses

import _mesa_training as training
import jax
import jax.numpy as jnp
import mesa_gradient_flow as example
import numpy as np
import pytest

CONFIG = example.Config(
    dim=2, length=8, count=64, epochs=60, block=20, laws=("gaussian_1", "sparse_1")
)

# Exact population descent at the paper's sizes (length 100, dim 5), per start; the
# reference numbers of the authors' step sizes, recomputed in float64 elsewhere.
PAPER = {
    "gaussian_0.5": (200, (0.732561, 0.767620, 0.767951)),
    "gaussian_1": (150, (0.191455, 0.191905, 0.191921)),
    "gaussian_2": (200, (0.044142, 0.047976, 0.048809)),
    "sparse_0.5": (200, (3.999472, 3.999998, 4.000000)),
    "sparse_1": (200, (0.963200, 0.999997, 1.000242)),
    "sparse_2": (120, (0.247076, 0.250000, 0.250081)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


def test_step_sizes_and_population_descent_are_those_of_the_paper(x64):
    for law in training.LAWS:
        epochs, expected = PAPER[law.slug]
        step_size = law.step_size(length=100, dim=5)
        np.testing.assert_allclose(step_size, law.learning_rate, rtol=1e-12)
        a, b = training.population_descent(
            law.moments(5), length=100, step_size=step_size, epochs=epochs
        )
        np.testing.assert_allclose((a * b)[-1], expected, atol=6e-7)


def test_stratified_tokens_have_gaussian_moments():
    u = training.stratified_normal(jax.random.key(0), (512, 3), jnp.float32)
    for power, moment in ((2, 1.0), (4, 3.0), (6, 15.0)):
        np.testing.assert_allclose(jnp.mean(u**power, axis=0), moment, rtol=0.01)
    np.testing.assert_allclose(jnp.mean(u, axis=0), 0.0, atol=1e-3)
    assert abs(float(jnp.mean(u[:, 0] * u[:, 1]))) < 0.2


def test_sampled_runs_follow_the_theory(run):
    _, measured = run
    for slug, tolerance in (("gaussian_1", 0.15), ("sparse_1", 0.05)):
        for start in range(3):
            sampled = measured[f"{slug}/sampled/start {start}"]
            exact = measured[f"{slug}/own descent/start {start}"]
            np.testing.assert_allclose(sampled, exact, rtol=tolerance)


def test_limits_are_labeled_apart(run):
    _, measured = run
    harmonic = sum(1.0 / k for k in range(1, 7))
    np.testing.assert_allclose(
        measured["gaussian_1/limit"], 3 / (15 + 3 * harmonic / 6), rtol=1e-6
    )
    np.testing.assert_allclose(measured["gaussian_1/infinite limit"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(measured["sparse_1/limit"], 1.0, rtol=1e-6)


def test_flow_and_descent_agree_where_the_step_is_small(run):
    _, measured = run
    for start in (0, 1):
        flow = measured[f"gaussian_1/flow/start {start}"]
        descent = measured[f"gaussian_1/descent/start {start}"]
        np.testing.assert_allclose(flow, descent, rtol=0.01)


def test_files_are_written(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "mesa_gradient_flow.json",
        "mesa_gradient_flow_gaussian.png",
        "mesa_gradient_flow_sparse.png",
        "checkpoints",
    }


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_numbers(tmp_path):
    config = dataclasses.replace(CONFIG, laws=("sparse_1",), output=tmp_path, block=5)
    example.main(dataclasses.replace(config, epochs=5))
    resumed = example.main(dataclasses.replace(config, epochs=15, resume=True))
    whole = example.main(dataclasses.replace(config, epochs=15, output=None))
    assert resumed == whole


def test_unknown_laws_are_refused():
    with pytest.raises(ValueError, match="gaussian_1"):
        example.main(dataclasses.replace(CONFIG, laws=("cauchy",)))
