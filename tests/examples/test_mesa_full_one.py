import dataclasses

import mesa_full_one as example
import numpy as np
import pytest

CONFIG = example.Config(
    references=0, dim=2, length=8, count=128, epochs=160, block=20, seed=0
)
SMALLEST = example.REFERENCES[-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_one")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


def test_the_exact_flow_ends_at_the_reference():
    _, measured, limits = example.compare(SMALLEST)
    assert (SMALLEST.length, SMALLEST.dim) == (5, 2)
    # The reference has seven digits.
    assert measured["T5/d2/0.1/error"] < 1e-6
    free, masked = limits
    np.testing.assert_allclose(free.a[0, 0], 0.9058172, atol=1e-6)
    np.testing.assert_allclose(free.b[1, 0], -0.3056335, atol=1e-6)
    np.testing.assert_allclose(masked.a * (1 - np.eye(2)), 0.0, atol=1e-15)
    harmonic = 1 + 1 / 2 + 1 / 3
    expected = 1 / (1 + harmonic / 3)
    np.testing.assert_allclose(masked.a[1, 1] * masked.b[1, 1], expected, rtol=1e-8)
    assert free.loss < masked.loss
    figure = example.draw_exact(limits, SMALLEST)
    assert len(figure.axes) == 8


def test_both_remedies_give_one_path(run):
    _, measured = run
    assert measured["sampled/masked against projected"] < 1e-6
    for start in range(3):
        assert measured[f"sampled/masked/off-diagonal/start {start}"] == 0.0
        assert measured[f"sampled/free/off-diagonal/start {start}"] > 0.01


def test_masked_training_tends_to_the_limit(run):
    _, measured = run
    harmonic = sum(1 / k for k in range(1, 7))
    np.testing.assert_allclose(
        measured["sampled/limit"], 1 / (1 + harmonic / 6), rtol=1e-6
    )
    for start in range(3):
        np.testing.assert_allclose(
            measured[f"sampled/masked/start {start}"],
            measured["sampled/limit"],
            rtol=0.15,
        )


def test_files_are_written(run):
    folder, _ = run
    assert (folder / "mesa_full_one.json").exists()
    assert (folder / "mesa_full_one_sampled.png").exists()
