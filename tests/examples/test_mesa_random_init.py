import dataclasses

import mesa_random_init as example
import numpy as np
import pytest

from jaxkit import mesa

CONFIG = example.Config(dim=2, length=8, count=128, epochs=160, block=80, seed=3)
HARMONIC = sum(1 / k for k in range(1, 7))
LIMITS = {"gaussian": 3 / (15 + 3 * HARMONIC / 6), "sparse": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


@pytest.mark.parametrize("law", ["gaussian", "sparse"])
@pytest.mark.parametrize("stddev", CONFIG.stddevs)
def test_all_coordinates_reach_the_limit(run, law, stddev):
    _, measured = run
    tag = f"{law}/{stddev:g}"
    np.testing.assert_allclose(measured[f"{law}/limit"], LIMITS[law], rtol=1e-10)
    np.testing.assert_allclose(measured[f"{tag}/exact product"], LIMITS[law], rtol=1e-6)
    assert measured[f"{tag}/final spread"] < 1e-6
    assert measured[f"{tag}/off B"] < 1e-3


def test_sparse_tokens_leave_the_off_diagonal_of_a_alone(run):
    _, measured = run
    for stddev in CONFIG.stddevs:
        np.testing.assert_allclose(measured[f"sparse/{stddev:g}/off A"], 1.0)
        assert measured[f"gaussian/{stddev:g}/off A"] < 1e-3


@pytest.mark.parametrize("law", ["gaussian", "sparse"])
def test_sampled_training_gives_equal_signs(run, law):
    _, measured = run
    for stddev in (0.01, 0.1):
        tag = f"{law}/{stddev:g}"
        assert measured[f"{tag}/equal signs"] == CONFIG.dim
        np.testing.assert_allclose(
            measured[f"{tag}/sampled product"], LIMITS[law], rtol=0.2
        )


def test_files_are_written(run):
    folder, _ = run
    names = {path.name for path in folder.glob("*.*")}
    assert names == {
        "mesa_random_init.json",
        "mesa_random_init_curves.png",
        "mesa_random_init_gaussian.png",
        "mesa_random_init_sparse.png",
    }


def test_share_outside_and_equal_signs():
    params = mesa.init_diagonal(2, a=3.0, b=-4.0)
    np.testing.assert_allclose(example.share_outside(params), 0.0, atol=1e-7)
    assert int(example.equal_signs(params)) == 0
    filled = mesa.LSAParams(params.kq.at[0, 0].set(5.0), params.pv)
    np.testing.assert_allclose(example.share_outside(filled), 25 / 75, rtol=1e-6)
    assert example.largest_off_diagonal(np.array([[9.0, -2.0], [1.0, 9.0]])) == 2.0
