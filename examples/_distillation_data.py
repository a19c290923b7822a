"""Images for the distillation examples: digits, CIFAR-10 from a file, or a stand-in."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Data(NamedTuple):
    """Normalized images with labels, and how they were normalized.

    Attributes:
      images: training images, float32 `[N, H, W, C]`.
      labels: their classes, int32 `[N]`.
      test_images: held-out images.
      test_labels: their classes.
      mean: mean of each channel of the training images, `[C]`.
      std: standard deviation of each channel.
      pixel_scale: the largest raw pixel.
      num_classes: the number of classes.
      augmented: whether mirrored images are images of the same kind.
    """

    images: jax.Array
    labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array
    mean: jax.Array
    std: jax.Array
    pixel_scale: float
    num_classes: int
    augmented: bool

    @property
    def size(self) -> int:
        """The side of an image."""
        return self.images.shape[1]

    @property
    def channels(self) -> int:
        """The channels of an image."""
        return self.images.shape[3]


def load(dataset: str, path: str = "", *, size: int = 32, count: int = 0) -> Data:
    """Loads a data set.

    Args:
      dataset: "digits" of scikit-learn; "cifar-npz" of a file with the arrays x_train,
        y_train, x_test, y_test, pixels in uint8; or "stand-in", drawn at random.
      path: the file of "cifar-npz".
      size: the side to which larger images are reduced by means of blocks.
      count: how many training images to keep; 0 for all.

    Returns:
      The data.
    """
    if dataset == "digits":
        return _normalized(*_digits(), pixel_scale=16.0, augmented=False, count=count)
    if dataset == "stand-in":
        raw = stand_in(np.random.default_rng(0), size=size)
        return _normalized(*raw, pixel_scale=255.0, augmented=True, count=count)
    if dataset != "cifar-npz":
        raise ValueError(
            f"`dataset` must be digits, cifar-npz or stand-in, got {dataset!r}."
        )
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"No file at {path!r}. Pass --data FILE.npz with the uint8 arrays x_train and "
            "x_test of shape [N, 32, 32, 3] and the labels y_train and y_test, or take "
            "--dataset stand-in to see the example run without it."
        )
    return _normalized(
        *_file(Path(path), size), pixel_scale=255.0, augmented=True, count=count
    )


def _digits() -> tuple[np.ndarray, ...]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The digits come with scikit-learn: pip install '.[examples]', or take "
            "--dataset stand-in to see the example run without them."
        ) from error

    bunch = load_digits()
    # The file is sorted by writer, so the parts are drawn: 1,300 to learn from.
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images, labels = bunch.images[order][..., None], bunch.target[order]
    return images[:1300], labels[:1300], images[1300:], labels[1300:]


def _file(path: Path, size: int) -> tuple[np.ndarray, ...]:
    names = ("x_train", "y_train", "x_test", "y_test")
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: it has {file.files}.")
        x, y, x_test, y_test = (file[name] for name in names)
    return _reduced(x, size), y.ravel(), _reduced(x_test, size), y_test.ravel()


def _reduced(images: np.ndarray, size: int) -> np.ndarray:
    side, block = images.shape[1], images.shape[1] // size
    if side % size:
        raise ValueError(f"--size must divide {side}, got {size}.")
    shape = (len(images), size, block, size, block, images.shape[3])
    return images.reshape(shape).mean((2, 4), dtype=np.float32)


def stand_in(
    rng: np.random.Generator, *, size: int, train: int = 4096, test: int = 1024
) -> tuple[np.ndarray, ...]:
    """Draws ten classes of smooth color patterns, shifted, mirrored and noisy.

    They take the place of photographs where only time or memory is of interest.
    """
    waves = rng.uniform(0.5, 3.0, (10, 4, 2)) * rng.choice([-1, 1], (10, 4, 2))
    colors = rng.standard_normal((10, 4, 3))
    total = train + test
    labels = rng.integers(0, 10, total)
    grid = np.stack(np.meshgrid(*[np.arange(size) / size] * 2, indexing="ij"), -1)
    phase = 2 * np.pi * rng.uniform(size=(total, 4, 1, 1))
    angle = 2 * np.pi * np.einsum("hwd,nfd->nfhw", grid, waves[labels]) + phase
    images = np.einsum("nfhw,nfc->nhwc", np.cos(angle), colors[labels])
    images += 0.5 * rng.standard_normal(images.shape)
    images = np.clip(127.5 + 40.0 * images, 0, 255)
    return images[:train], labels[:train], images[train:], labels[train:]


def _normalized(
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    pixel_scale: float,
    augmented: bool,
    count: int,
) -> Data:
    if count:
        images, labels = images[:count], labels[:count]
    images, test_images = images / pixel_scale, test_images / pixel_scale
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    normal = lambda x: jnp.asarray((x - mean) / std, jnp.float32)
    return Data(
        images=normal(images),
        labels=jnp.asarray(labels, jnp.int32),
        test_images=normal(test_images),
        test_labels=jnp.asarray(test_labels, jnp.int32),
        mean=jnp.asarray(mean, jnp.float32),
        std=jnp.asarray(std, jnp.float32),
        pixel_scale=pixel_scale,
        num_classes=int(labels.max()) + 1,
        augmented=augmented,
    )


def centered_one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Gives 1 - 1/C at the class and -1/C elsewhere."""
    return jax.nn.one_hot(labels, num_classes) - 1.0 / num_classes
