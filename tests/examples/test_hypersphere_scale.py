import dataclasses

import hypersphere_scale as example
import jax
import numpy as np
import pytest

CONFIG = example.Config(
    classes=48, dim=8, batch=8, steps=4, chunk=8, active=3, sampled=0.5, data_devices=2
)


@pytest.mark.slow
def test_all_ways_agree_on_a_mesh(tmp_path):
    out = example.main(dataclasses.replace(CONFIG, output=tmp_path))
    for way in ("all cosines", "active set"):
        assert out[f"{way}/difference"] < 1e-4
    assert out["sampled/difference"] > 1e-3
    np.testing.assert_allclose(
        out["all cosines/loss"], out["streaming/loss"], rtol=1e-4
    )
    for way in example.WAYS:
        assert out[f"{way}/target cosine"] > out["before/target cosine"]
    assert (tmp_path / "hypersphere_scale.json").exists()


@pytest.mark.slow
def test_samples_without_a_class_stay_so_among_sampled_classes():
    mesh = example.make_mesh(CONFIG)
    weights, batches, labels = example.make_data(CONFIG, mesh)
    labels = labels[0].at[3].set(-1)
    loss = jax.jit(example.sampled_loss(CONFIG, mesh))
    values = loss(batches[0], weights, labels, jax.random.key(0))
    np.testing.assert_array_equal(values == 0.0, labels == -1)


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must divide the 4 devices"):
        example.main(dataclasses.replace(CONFIG, data_devices=3))
    with pytest.raises(ValueError, match="multiple of the 2 devices that share them"):
        example.main(dataclasses.replace(CONFIG, classes=47))
    with pytest.raises(ValueError, match="`loss` must be one of sface, arcface"):
        example.main(dataclasses.replace(CONFIG, loss="softmax"))
