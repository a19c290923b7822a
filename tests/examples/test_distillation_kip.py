import dataclasses

import distillation_kip as example
import numpy as np
import pytest

from jaxkit import distillation

TINY = example.Config(
    dataset="stand-in",
    size=8,
    count=64,
    sizes=(10,),
    num_steps=4,
    batch_size=16,
    num_seeds=1,
    block=2,
)


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_numbers(tmp_path):
    config = dataclasses.replace(TINY, output=tmp_path)
    whole = example.main(config)
    folder = tmp_path / "checkpoints" / "10_0" / "4"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    resumed = example.main(dataclasses.replace(config, resume=True))
    time = "10/CPU seconds"
    assert {k: v for k, v in resumed.items() if k != time} == {
        k: v for k, v in whole.items() if k != time
    }
    made = distillation.load_distilled(tmp_path / "distilled_10.npz")
    assert made.images.shape == (10, 8, 8, 3)
    assert made.target_kind == "centered_one_hot"
    np.testing.assert_allclose(made.targets.sum(1), 0.0, atol=1e-6)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoints",
        "distillation_kip.json",
        "distillation_kip_images.png",
        "distillation_kip_loss.png",
        "distilled_10.npz",
    }


@pytest.mark.experiment
def test_the_accuracies_on_digits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    measured = example.main(example.Config())
    assert measured["10/distilled/accuracy"] >= 0.95
    assert measured["100/distilled/accuracy"] >= 0.985
    assert measured["10/random subset/accuracy"] < 0.8
