"""A distilled set in one file, with all that a reader needs to use it."""

import dataclasses
import os
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks

__all__ = ["DistilledSet", "load_distilled", "save_distilled"]

_KINDS = (
    "representation",
    "standardized_representation",
    "one_hot",
    "centered_one_hot",
)
_FORMAT = "jaxkit.distilled/1"
_ARRAYS = ("images", "targets", "mean", "std", "pixel_scale")
_OPTIONAL = ("target_mean", "target_std")
_TEXTS = ("target_kind", "notes")
_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilledSet:
    """Synthetic examples, how real images are brought to them, what targets mean.

    Attributes:
      images: the synthetic images as the networks see them, shape ``[n, H, W, C]``.
      targets: their targets, shape ``[n, k]``.
      mean: mean of each channel of ``pixels / pixel_scale``, shape ``[C]``.
      std: standard deviation of each channel, shape ``[C]``.
      pixel_scale: the largest raw pixel, for instance 255, a scalar.
      target_mean: what was subtracted from each target, shape ``[k]``, or None.
      target_std: what each target was then divided by, shape ``[k]``, or None.
      target_kind: ``"representation"`` of a teacher, ``"standardized_representation"``,
        ``"one_hot"`` or ``"centered_one_hot"``, which of ``C`` classes is ``1 - 1/C`` at
        the right one and ``-1/C`` elsewhere. Learned targets keep the name of their
        start.
      notes: where the set comes from, free text.
    """

    images: jax.Array
    targets: jax.Array
    mean: jax.Array
    std: jax.Array
    pixel_scale: jax.Array | float = 1.0
    target_mean: jax.Array | None = None
    target_std: jax.Array | None = None
    target_kind: str = dataclasses.field(default="representation", metadata=_STATIC)
    notes: str = dataclasses.field(default="", metadata=_STATIC)

    def normalize(self, pixels: jax.Array) -> jax.Array:
        """Brings real images ``[..., H, W, C]`` into the space of the synthetic ones.

        Pixels are real numbers: convert integers first.
        """
        (pixels,) = checks.floating(pixels=pixels)
        mean, std, scale = self._statistics(pixels)
        return (pixels / scale - mean) / std

    def denormalize(self, images: jax.Array) -> jax.Array:
        """Turns images of the networks back into pixels, to look at them."""
        (images,) = checks.floating(images=images)
        mean, std, scale = self._statistics(images)
        return (images * std + mean) * scale

    def _statistics(self, like: jax.Array) -> tuple[jax.Array, ...]:
        shape = (1,) * (like.ndim - 1) + (-1,)
        values = (self.mean, self.std, self.pixel_scale)
        return tuple(jnp.asarray(x, like.dtype).reshape(shape) for x in values)


def save_distilled(path: str | os.PathLike[str], distilled: DistilledSet) -> None:
    r"""Writes a distilled set as one ``.npz`` file.

    .. math:: \{X_s, Y_s, \text{preprocessing}, \text{meaning of the targets}\}

    The file holds plain arrays and text, no pickled objects, so that reading a
    stranger's file runs none of its code. Formats shorter than float32 are widened,
    which changes no value.

    Args:
      path: where to write; used as it is, no ending is added.
      distilled: the set.

    Returns:
      None.

    Raises:
      ValueError: if shapes do not fit each other or the kind of targets is unknown.
      TypeError: if images or targets are not real.

    Examples:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> made = distillation.DistilledSet(
      ...     images=jnp.zeros((2, 8, 8, 1)),
      ...     targets=jnp.eye(2) - 0.5,
      ...     mean=jnp.array([0.3]),
      ...     std=jnp.array([0.4]),
      ...     pixel_scale=16.0,
      ...     target_kind="centered_one_hot",
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     distillation.save_distilled(f"{folder}/digits.npz", made)
      ...     read = distillation.load_distilled(f"{folder}/digits.npz")
      >>> print(read.target_kind, read.normalize(jnp.full((8, 8, 1), 4.8))[0, 0])
      centered_one_hot [0.]
    """
    _check(distilled)
    parts: dict[str, Any] = {"format": np.array(_FORMAT)}
    for name in (*_ARRAYS, *_OPTIONAL):
        value = getattr(distilled, name)
        if value is not None:
            parts[name] = _plain(value)
    for name in _TEXTS:
        parts[name] = np.array(getattr(distilled, name))
    with open(path, "wb") as file:
        np.savez_compressed(file, **parts)


def load_distilled(path: str | os.PathLike[str]) -> DistilledSet:
    r"""Reads what :func:`save_distilled` wrote.

    .. math:: \{X_s, Y_s, \text{preprocessing}, \text{meaning of the targets}\}

    Args:
      path: the file.

    Returns:
      The set. Its arrays are float64 only where float64 is switched on.

    Raises:
      ValueError: if the file is no distilled set, is damaged, was written by a newer
        version, lacks a part, holds pickled objects or parts that are not real or do
        not fit each other.
      OSError: if it cannot be opened.

    Examples:
      >>> import tempfile
      >>> import numpy as np
      >>> from jaxkit import distillation
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/other.npz", x=np.zeros(3))
      ...     try:
      ...         distillation.load_distilled(f"{folder}/other.npz")
      ...     except ValueError as error:
      ...         print(str(error).split(" must ")[1])
      hold a distilled set of format 'jaxkit.distilled/1', got None.
    """
    found = _read(path)
    form = str(found.pop("format")) if "format" in found else None
    if form != _FORMAT:
        raise ValueError(
            f"`{os.fspath(path)}` must hold a distilled set of format {_FORMAT!r}, got "
            f"{form if form is None else repr(form)}."
        )
    missing = [name for name in (*_ARRAYS, *_TEXTS) if name not in found]
    if missing:
        raise ValueError(f"`{os.fspath(path)}` lacks {', '.join(missing)}.")
    names = [name for name in (*_ARRAYS, *_OPTIONAL) if name in found]
    parts: dict[str, Any] = {name: jnp.asarray(found[name]) for name in names}
    parts |= {name: str(found[name]) for name in _TEXTS}
    distilled = DistilledSet(**parts)
    try:
        _check(distilled)
    except TypeError as error:
        raise ValueError(f"`{os.fspath(path)}` does not fit: {error}") from error
    return distilled


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.ndarray):
                with file:
                    return dict(file.items())
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"`{os.fspath(path)}` must be a whole npz file, got one that ends early or "
            f"is damaged: {error}."
        ) from error
    raise ValueError(f"`{os.fspath(path)}` must be an npz file, got one array.")


def _plain(array: jax.Array | float) -> np.ndarray:
    # NumPy writes formats that it does not know, such as bfloat16, as raw bytes.
    (array,) = checks.floating(array=array)
    wide = array.dtype in (jnp.float32, jnp.float64)
    return np.asarray(array if wide else array.astype(jnp.float32))


def _check(distilled: DistilledSet) -> None:
    images, targets = checks.floating(
        images=distilled.images, targets=distilled.targets
    )
    if images.ndim != 4 or targets.ndim != 2 or len(images) != len(targets):
        raise ValueError(
            "`images` and `targets` must have shapes [n, H, W, C] and [n, k], got "
            f"{images.shape} and {targets.shape}."
        )
    sizes = {
        "mean": images,
        "std": images,
        "target_mean": targets,
        "target_std": targets,
    }
    for name, like in sizes.items():
        value = getattr(distilled, name)
        if value is not None and np.shape(value) != like.shape[-1:]:
            raise ValueError(
                f"`{name}` must have shape {like.shape[-1:]}, got {np.shape(value)}."
            )
    checks.one_of("target_kind", distilled.target_kind, _KINDS)
