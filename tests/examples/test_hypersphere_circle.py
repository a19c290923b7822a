import importlib.util
import json

import hypersphere_circle as example
import numpy as np
import pytest


def test_gaps_around_the_circle():
    angles = np.radians([10.0, 350.0, 130.0, 250.0])
    weights = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(
        np.sort(example.gaps(weights)), [20.0, 100.0, 120.0, 120.0], atol=1e-9
    )


def test_gaps_on_the_sphere_lead_to_the_nearest():
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]])
    want = np.degrees([np.pi / 2, np.arccos(0.6), np.arccos(0.6)])
    np.testing.assert_allclose(example.gaps(weights), want, rtol=1e-12)


def toy_digits() -> tuple[np.ndarray, np.ndarray]:
    """Makes ten classes of one bright pixel each."""
    labels = np.repeat(np.arange(10), 12).astype(np.int32)
    images = 0.2 * np.random.default_rng(0).random((120, 8, 8)).astype(np.float32)
    images[np.arange(120), labels % 8, labels // 2] += 1.0
    return images, labels


@pytest.mark.slow
def test_training_places_the_classes_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(example, "read_digits", toy_digits)
    config = example.Config(
        dims=(2,), rates=(0.0,), num_steps=200, batch_size=32, width=32, output=tmp_path
    )
    measured = example.main(config)
    assert measured["SFace/D=2/0/accuracy"] > 0.5
    assert measured["SFace/D=2/0/smallest gap"] > 5.0
    record = json.loads((tmp_path / "hypersphere_circle.json").read_text())
    assert record["results"] == measured
    assert (tmp_path / "hypersphere_circle.png").exists()


@pytest.mark.experiment
@pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)
def test_sface_spreads_the_digits_evenly_whatever_the_labels():
    measured = example.main(example.Config(dims=(2,)))
    for rate in ("0", "0.2"):
        assert measured[f"SFace/D=2/{rate}/smallest gap"] > 27.0
        assert measured[f"SFace/D=2/{rate}/largest gap"] < 45.0
    assert measured["SFace/D=2/0/accuracy"] > 0.9
    for other in ("ArcFace s=64", "NormFace s=16"):
        assert (
            measured[f"{other}/D=2/0.2/accuracy"] < measured["SFace/D=2/0.2/accuracy"]
        )
