"""A distilled set survives its file, and nothing else is taken for one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation

RNG = np.random.default_rng(0)
MADE = distillation.DistilledSet(
    images=jnp.asarray(RNG.standard_normal((3, 4, 4, 2)), jnp.float32),
    targets=jnp.asarray(RNG.standard_normal((3, 5)), jnp.float32),
    mean=jnp.array([0.25, 0.5]),
    std=jnp.array([0.5, 0.25]),
    pixel_scale=255.0,
    target_mean=jnp.arange(5.0),
    target_std=jnp.full(5, 2.0),
    target_kind="standardized_representation",
    notes="20 steps, seed 1 \u2013 a test",
)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "distilled set"
    distillation.save_distilled(path, MADE)
    read = distillation.load_distilled(path)
    assert (read.target_kind, read.notes) == (MADE.target_kind, MADE.notes)
    assert jax.tree.structure(read) == jax.tree.structure(MADE)
    for got, want in zip(jax.tree.leaves(read), jax.tree.leaves(MADE), strict=True):
        np.testing.assert_array_equal(got, want)
    assert [p.name for p in tmp_path.iterdir()] == ["distilled set"]


def test_what_was_left_out_stays_out(tmp_path):
    short = dataclasses.replace(MADE, target_mean=None, target_std=None)
    distillation.save_distilled(tmp_path / "x.npz", short)
    read = distillation.load_distilled(str(tmp_path / "x.npz"))
    assert read.target_mean is read.target_std is None


def test_the_file_holds_no_pickles(tmp_path):
    distillation.save_distilled(tmp_path / "x.npz", MADE)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        kinds = {name: file[name].dtype.kind for name in file.files}
    assert set(kinds.values()) == {"f", "U"}


def test_short_floats_keep_their_values(tmp_path):
    short = dataclasses.replace(MADE, images=MADE.images.astype(jnp.bfloat16))
    distillation.save_distilled(tmp_path / "x.npz", short)
    read = distillation.load_distilled(tmp_path / "x.npz")
    np.testing.assert_array_equal(read.images, short.images.astype(jnp.float32))


def test_float64_survives(tmp_path, x64):
    wide = dataclasses.replace(MADE, images=jnp.full((3, 4, 4, 2), 1 / 3, jnp.float64))
    distillation.save_distilled(tmp_path / "x.npz", wide)
    read = distillation.load_distilled(tmp_path / "x.npz")
    np.testing.assert_array_equal(read.images, 1 / 3)


def test_preprocessing_is_the_one_named_and_has_an_inverse():
    pixels = RNG.uniform(0.0, 255.0, (2, 3, 2)).astype(np.float32)
    expected = (pixels / 255.0 - [0.25, 0.5]) / [0.5, 0.25]
    np.testing.assert_allclose(MADE.normalize(pixels), expected, rtol=1e-5)
    np.testing.assert_allclose(
        MADE.denormalize(MADE.normalize(pixels)), pixels, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": jnp.ones((2, 5))},
            r"`images` and `targets`.*\(3, 4, 4, 2\) and \(2, 5\)",
        ),
        ({"images": jnp.ones((3, 4, 4))}, r"`images` and `targets`.*\(3, 4, 4\)"),
        ({"mean": jnp.ones(3)}, r"`mean` must have shape \(2,\), got \(3,\)"),
        (
            {"target_std": jnp.ones(2)},
            r"`target_std` must have shape \(5,\), got \(2,\)",
        ),
        (
            {"target_kind": "hard"},
            r"`target_kind` must be one of 'representation'.*'hard'",
        ),
    ],
)
def test_a_set_that_does_not_fit_is_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        distillation.save_distilled(
            tmp_path / "x.npz", dataclasses.replace(MADE, **changes)
        )
    assert list(tmp_path.iterdir()) == []


def test_integer_images_are_refused(tmp_path):
    pixels = dataclasses.replace(MADE, images=jnp.zeros((3, 4, 4, 2), jnp.int32))
    with pytest.raises(TypeError, match=r"`images`.*int32"):
        distillation.save_distilled(tmp_path / "x.npz", pixels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(2)}, r"format 'jaxkit.distilled/1', got None"),
        ({"format": np.array("jaxkit.distilled/2")}, r"got 'jaxkit.distilled/2'"),
        ({"format": np.array("jaxkit.distilled/1")}, r"lacks images, targets, mean"),
        ({"format": np.array([{}], object)}, r"allow_pickle"),
    ],
)
def test_another_file_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        distillation.load_distilled(tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "x.npz"
    distillation.save_distilled(path, MADE)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"x.npz` must be a whole npz file"):
        distillation.load_distilled(path)


def test_a_file_with_another_byte_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    distillation.save_distilled(path, MADE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npz` must be a whole npz file"):
        distillation.load_distilled(path)


def test_a_file_of_integer_images_is_refused(tmp_path):
    distillation.save_distilled(tmp_path / "x.npz", MADE)
    with np.load(tmp_path / "x.npz") as file:
        parts = {**file, "images": np.zeros((3, 4, 4, 2), np.int32)}
    np.savez(tmp_path / "x.npz", **parts)
    with pytest.raises(ValueError, match=r"x.npz` does not fit: `images`.*int32"):
        distillation.load_distilled(tmp_path / "x.npz")


def test_statistics_may_be_lists(tmp_path):
    listed = dataclasses.replace(MADE, mean=[0.25, 0.5], std=[0.5, 0.25])
    distillation.save_distilled(tmp_path / "x.npz", listed)
    read = distillation.load_distilled(tmp_path / "x.npz")
    same = listed.normalize(MADE.images) == MADE.normalize(MADE.images)
    assert bool(same.all())
    np.testing.assert_array_equal(read.mean, MADE.mean)
    np.testing.assert_array_equal(read.std, MADE.std)


def test_a_lone_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(2))
    with pytest.raises(ValueError, match="must be an npz file, got one array"):
        distillation.load_distilled(tmp_path / "x.npy")
