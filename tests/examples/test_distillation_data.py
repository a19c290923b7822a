import _distillation_data as data_
import numpy as np
import pytest

RNG = np.random.default_rng(0)


def write(path, **changes):
    arrays = {
        "x_train": RNG.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        "y_train": np.arange(8)[:, None] % 3,
        "x_test": RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
        "y_test": np.arange(4)[:, None] % 3,
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def test_a_file_is_normalized_by_its_training_images(tmp_path):
    arrays = write(tmp_path / "x.npz")
    data = data_.load("cifar-npz", str(tmp_path / "x.npz"))
    images = arrays["x_train"] / 255.0
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    np.testing.assert_allclose(data.images, (images - mean) / std, atol=1e-5)
    test = (arrays["x_test"] / 255.0 - mean) / std
    np.testing.assert_allclose(data.test_images, test, atol=1e-5)
    np.testing.assert_array_equal(data.labels, np.arange(8) % 3)
    assert (data.size, data.channels, data.num_classes) == (32, 3, 3)


def test_smaller_images_are_means_of_blocks(tmp_path):
    arrays = write(tmp_path / "x.npz")
    data = data_.load("cifar-npz", str(tmp_path / "x.npz"), size=16, count=5)
    assert data.images.shape == (5, 16, 16, 3)
    x = arrays["x_train"][:5].astype(np.float64)
    small = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(
        (data.images * data.std + data.mean) * 255.0, small, atol=1e-2
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cifar-npz", "nowhere.npz"), FileNotFoundError, "--dataset stand-in"),
        (("mnist",), ValueError, "digits, cifar-npz or stand-in, got 'mnist'"),
    ],
)
def test_what_cannot_be_loaded_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        data_.load(*arguments)


def test_a_file_without_its_parts_is_refused(tmp_path):
    write(tmp_path / "x.npz", y_test=None)
    with pytest.raises(ValueError, match="lacks y_test"):
        data_.load("cifar-npz", str(tmp_path / "x.npz"))
    write(tmp_path / "y.npz")
    with pytest.raises(ValueError, match="must divide 32, got 12"):
        data_.load("cifar-npz", str(tmp_path / "y.npz"), size=12)


def test_the_stand_in_holds_ten_classes_that_differ():
    x, y, *_ = data_.stand_in(np.random.default_rng(0), size=8, train=300, test=10)
    assert x.shape == (300, 8, 8, 3)
    assert 0 <= x.min() < x.max() <= 255
    # The spectrum does not see the random shifts.
    power = np.abs(np.fft.fft2(x - x.mean((1, 2), keepdims=True), axes=(1, 2)))
    power = power.reshape(300, -1)
    half = np.arange(300) < 150
    means = np.stack([power[half & (y == c)].mean(0) for c in range(10)])
    found = ((power[~half][:, None] - means[None]) ** 2).sum(-1).argmin(1)
    assert (found == y[~half]).mean() > 0.5


def test_digits_are_split_as_stated():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    data = data_.load("digits")
    assert data.images.shape == (1300, 8, 8, 1)
    assert data.test_images.shape == (497, 8, 8, 1)
    assert abs(float(data.images.mean())) < 1e-4
    assert abs(float(data.images.std()) - 1.0) < 1e-4
    # Writers are spread over both parts.
    assert (np.bincount(data.test_labels) > 35).all()
