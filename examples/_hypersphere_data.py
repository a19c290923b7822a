"""Images of many classes, of which some are kept for the open-set test."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "omniglot_small.npz"
"""Where the file of characters is looked for if no path is given."""


class OneShot(NamedTuple):
    """Runs of one-shot classification: which example shows the same character.

    Attributes:
      examples: one image for each class, `[runs, classes, side, side, 1]`.
      tests: images to classify, of the same shape.
      answers: the example that is right for each, `[runs, classes]`.
    """

    examples: np.ndarray
    tests: np.ndarray
    answers: np.ndarray


class Images(NamedTuple):
    """A training set, and a test set of other classes.

    Attributes:
      name: what they are.
      train: images between 0 and 1, `[N, side, side, 1]`.
      labels: their classes, counted from 0.
      test: images of classes that are not among those of training.
      test_labels: their classes, counted from 0.
      one_shot: one-shot runs on yet other classes, or None.
    """

    name: str
    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    one_shot: OneShot | None

    @property
    def num_classes(self) -> int:
        """The number of classes to train on."""
        return int(self.labels.max()) + 1


def load_images(path: Path | None, held_out: Sequence[str]) -> Images:
    """Reads characters from a file, or scikit-learn's digits where there is none.

    Args:
      path: an NPZ file with `images`, `labels`, `class_alphabet`, `alphabet_names` and
        `oneshot_train`, `oneshot_test`, `oneshot_answer`; None to look beside the
        repository.
      held_out: the alphabets to test on.

    Returns:
      The images.
    """
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"`data` must name an NPZ file, got {path}.")
    if path is None and not BESIDE.is_file():
        return _digits()
    with np.load(path or BESIDE) as file:
        missing = {"images", "labels", "class_alphabet", "alphabet_names"} - set(file)
        if missing:
            names = ", ".join(sorted(missing))
            raise ValueError(f"`data` lacks the arrays {names}: {path}.")
        content = {name: file[name] for name in file}
    return _omniglot(content, held_out)


def _omniglot(content: dict[str, np.ndarray], held_out: Sequence[str]) -> Images:
    names = [str(name) for name in content["alphabet_names"]]
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise ValueError(
            f"`held_out` must name some of {', '.join(names)}, got {unknown[0]}."
        )
    alphabet = content["class_alphabet"][content["labels"]]
    is_test = np.isin(alphabet, [names.index(name) for name in held_out])
    images, classes = _scaled(content["images"]), content["labels"]
    one_shot = None
    if "oneshot_train" in content:
        one_shot = OneShot(
            _scaled(content["oneshot_train"]),
            _scaled(content["oneshot_test"]),
            content["oneshot_answer"].astype(np.int32),
        )
    return Images(
        "Omniglot",
        images[~is_test],
        _from_zero(classes[~is_test]),
        images[is_test],
        _from_zero(classes[is_test]),
        one_shot,
    )


def _digits() -> Images:
    """Digits 0 to 6 to train on, 7 to 9 to test on: a stand-in with few classes."""
    images, digits = read_digits()
    is_test = digits >= 7
    return Images(
        "scikit-learn digits",
        images[~is_test, ..., None],
        _from_zero(digits[~is_test]),
        images[is_test, ..., None],
        _from_zero(digits[is_test]),
        None,
    )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Gives the digits of scikit-learn, `[N, 8, 8]` between 0 and 1, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "There is no data: give --data, or install scikit-learn for its digits "
            "(pip install scikit-learn)."
        ) from error
    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int32)


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images / 16.0).astype(np.float32)[..., None]


def _from_zero(classes: np.ndarray) -> np.ndarray:
    return np.unique(classes, return_inverse=True)[1].astype(np.int32)
