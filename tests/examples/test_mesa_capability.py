import dataclasses

import mesa_capability as example
import numpy as np
import pytest

CONFIG = example.Config(length=22, count=500, contexts=(6, 20))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capability")
    return folder, example.main(dataclasses.replace(CONFIG, output=folder))


@pytest.mark.parametrize(
    ("law", "risk"),
    [("gaussian", 0.4), ("uniform", 0.16), ("rademacher", 0.0), ("sparse", 0.0)],
)
def test_asymptotes(run, law, risk):
    np.testing.assert_allclose(run[1][f"{law}/asymptote"], risk, atol=1e-12)


def test_theory_is_the_known_value(run):
    np.testing.assert_allclose(run[1]["gaussian/product"], 0.191905089, rtol=1e-8)
    np.testing.assert_allclose(run[1]["rademacher/product"], 0.825825721, rtol=1e-8)
    np.testing.assert_allclose(run[1]["gaussian/20/theory"], 0.4242, atol=5e-5)


def test_sampled_risks_follow_the_theory(run):
    for law in example.MOMENTS:
        for t in CONFIG.contexts:
            assert abs(run[1][f"{law}/{t}/z"]) < 4.0


def test_the_mesa_layer_beats_one_step(run):
    for law in ("gaussian", "uniform", "rademacher"):
        assert run[1][f"{law}/20/mesa layer"] < 1e-3 * run[1][f"{law}/20/layer"]


def test_files_are_written(run):
    names = {path.name for path in run[0].iterdir()}
    assert names == {"mesa_capability.json", "mesa_capability.png"}
