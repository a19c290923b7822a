import json

import hypersphere_force_curves as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest

CONFIG = example.Config(num_points=1001)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forces")
    return folder, example.main(example.Config(num_points=1001, output=folder))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.slow
def test_forces_of_sface_are_gates_times_sines(measured):
    _, results = measured
    theta = np.linspace(0.0, np.pi / 2, 1001)
    push = 64 * sigmoid(-80 * (theta - 1.23)) * np.sin(theta)
    name = "SFace, default"
    np.testing.assert_allclose(results[f"{name}/pull at 0.8"], 32 * np.sin(0.8))
    np.testing.assert_allclose(results[f"{name}/largest push"], push.max(), rtol=1e-9)
    assert abs(results[f"{name}/its angle"] - 1.16474) < 2e-3


@pytest.mark.slow
def test_forces_of_cosface_are_those_of_two_logits(measured):
    _, results = measured
    pull = 64 * sigmoid(-64 * (np.cos(0.8) - 0.35)) * np.sin(0.8)
    np.testing.assert_allclose(
        results["CosFace, m=0.35/pull at 0.8"], pull, rtol=1e-7, atol=1e-15
    )


@pytest.mark.slow
def test_the_value_rises_while_the_potential_falls(measured):
    _, results = measured
    assert results["descent/largest rise of the loss"] > 0.1
    assert results["descent/largest rise of the potential"] < 0.0
    assert 0.0 < results["descent/potential, last"] < 0.01


@pytest.mark.slow
def test_the_angle_crosses_1_when_the_law_without_a_gate_says(measured):
    """Far from the gate tan(theta / 2) decays at the rate of the scale."""
    with jax.enable_x64(True):
        time = np.log(np.tan(0.75) / np.tan(0.5)) / 64
        # The impostor is far from the first: nearly all of the way is the pull's.
        descent = example.descend(example.Config(other=float(np.pi)))
    assert np.any(descent.own < 1.0)
    crossed = descent.times[np.argmax(descent.own < 1.0)]
    assert 0.99 * time <= crossed <= 1.05 * time


@pytest.mark.slow
def test_files_are_written(measured):
    folder, results = measured
    record = json.loads((folder / "hypersphere_force_curves.json").read_text())
    assert record["results"] == results
    assert (folder / "hypersphere_force_curves.png").exists()


def test_the_loss_is_that_of_the_two_angles():
    loss = example.SOFTMAX["NormFace, s=64"]
    got = example.two_class_loss(jnp.float32(0.5), jnp.float32(0.6), loss)
    want = np.logaddexp(0.0, 64 * (np.cos(0.6) - np.cos(0.5)))
    np.testing.assert_allclose(got, want, rtol=1e-3)
