"""Random changes of images, drawn for each image apart."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike, Key

__all__ = ["augment_view", "crop_and_flip"]


@jit(static_argnames=("padding", "flip"))
def crop_and_flip(
    key: Key, images: ArrayLike, *, padding: int = 4, flip: bool = True
) -> jax.Array:
    r"""The augmentation of real batches in the paper: a random crop and a mirror.

    .. math:: y_{h, w} = \mathrm{flip}\bigl(\mathrm{pad}(x)_{h + a, w + b}\bigr), \qquad
       a, b \sim \mathrm{Uniform}\{0, \dots, 2p\}

    Padding is 0, the mean of normalized images; code that crops raw pixels before it
    normalizes them pads with black instead.

    Args:
      key: a typed random key.
      images: normalized images, ``[batch, height, width, channels]``.
      padding: pixels :math:`p` added on each side; static.
      flip: whether each image is mirrored left to right with probability 1/2; static.

    Returns:
      Images of the shape and dtype of ``images``.

    Raises:
      TypeError: if ``key`` is no typed key, ``images`` not floating or ``padding`` no
        integer.
      ValueError: if ``images`` does not have 4 axes or ``padding`` is negative.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> images = jnp.arange(2.0).reshape(1, 1, 2, 1)
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> for key in keys:
      ...     print(distillation.crop_and_flip(key, images, padding=0).ravel())
      [1. 0.]
      [1. 0.]
      [0. 1.]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024.
    """
    images = _check(key, images, padding)
    crop_key, flip_key = jax.random.split(key)
    images = _crop(crop_key, images, padding, "constant")
    return _flip(flip_key, images) if flip else images


@jit(static_argnames=("padding", "flip", "cutout"))
def augment_view(
    key: Key,
    images: ArrayLike,
    *,
    padding: int = 4,
    flip: bool = True,
    gain: ArrayLike = 0.4,
    shift: ArrayLike = 0.4,
    cutout: int | None = None,
) -> jax.Array:
    r"""Draws one view of each image for self-supervised training.

    .. math:: y = \mathrm{cutout}\bigl((1 + u) \, \mathrm{flip}(\mathrm{crop}(x)) + v
       \bigr), \qquad u \sim \mathrm{Uniform}(-g, g), \quad
       v \sim \mathrm{Uniform}(-s, s)

    Crops repeat the border; ``u`` and ``v`` are drawn for each image and channel. Two
    views are two calls with two keys.

    Args:
      key: a typed random key.
      images: normalized images, ``[batch, height, width, channels]``.
      padding: pixels added on each side before the crop; static.
      flip: whether each image is mirrored with probability 1/2, False for digits;
        static.
      gain: the largest relative change :math:`g` of a channel, a scalar.
      shift: the largest shift :math:`s` of a channel, a scalar.
      cutout: side of a square at a random place that is set to 0; None takes a third
        of the height, 0 leaves it out; static.

    Returns:
      Images of the shape and dtype of ``images``.

    Raises:
      TypeError: if ``key`` is no typed key, ``images`` not floating or a size no
        integer.
      ValueError: if ``images`` does not have 4 axes, ``padding`` is negative, ``gain``
        or ``shift`` no scalar, or the square does not fit into the image.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> view = distillation.augment_view(
      ...     jax.random.key(0), jnp.ones((1, 6, 6, 1)), gain=0.0, shift=0.0)
      >>> print(view.sum())
      32.0

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy
      Reduction*, ICML 2021.
    """
    images = _check(key, images, padding)
    gain, shift = checks.floating(gain=gain, shift=shift)
    for name, value in (("gain", gain), ("shift", shift)):
        if value.ndim:
            raise ValueError(f"`{name}` must be a scalar, got shape {value.shape}.")
    size = images.shape[1] // 3 if cutout is None else cutout
    checks.at_least("cutout", size, 0)
    if size > min(images.shape[1:3]):
        raise ValueError(
            f"`cutout` must fit into images of shape {images.shape}, got {size}."
        )
    crop_key, flip_key, gain_key, shift_key, cutout_key = jax.random.split(key, 5)
    images = _crop(crop_key, images, padding, "edge")
    if flip:
        images = _flip(flip_key, images)
    images = images * (1.0 + _per_channel(gain_key, images, gain))
    images = images + _per_channel(shift_key, images, shift)
    return _cut_out(cutout_key, images, size)


def _crop(key: Key, images: jax.Array, padding: int, mode: str) -> jax.Array:
    batch, *shape = images.shape
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, widths, mode=mode)
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1, jnp.int32)
    cut = lambda image, corner: jax.lax.dynamic_slice(
        image, (corner[0], corner[1], jnp.zeros((), jnp.int32)), shape
    )
    return jax.vmap(cut)(padded, corners)


def _flip(key: Key, images: jax.Array) -> jax.Array:
    # Draws of one dtype whatever that of the images, so that all see the same ones.
    flip = jax.random.uniform(key, images.shape[:1], jnp.float32) < 0.5
    flip = jnp.broadcast_to(flip[:, None, None, None], images.shape)
    return jnp.where(flip, images[:, :, ::-1], images)


def _per_channel(key: Key, images: jax.Array, size: jax.Array) -> jax.Array:
    shape = (images.shape[0], 1, 1, images.shape[3])
    draw = jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
    return size.astype(images.dtype) * draw.astype(images.dtype)


def _cut_out(key: Key, images: jax.Array, size: int) -> jax.Array:
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def covered(key: Key, count: int) -> jax.Array:
        corner = jax.random.randint(key, (batch, 1), 0, count - size + 1, jnp.int32)
        place = jnp.arange(count, dtype=jnp.int32)[None] - corner
        return (place >= 0) & (place < size)

    rows, columns = covered(row_key, height), covered(column_key, width)
    hole = rows[:, :, None, None] & columns[:, None, :, None]
    hole = jnp.broadcast_to(hole, images.shape)
    return jnp.where(hole, jnp.zeros_like(images), images)


def _check(key: Key, images: ArrayLike, padding: int) -> jax.Array:
    checks.typed_key(key)
    (images,) = checks.floating(images=images)
    if images.ndim != 4:
        raise ValueError(
            "`images` must have shape (batch, height, width, channels), got "
            f"{images.shape}."
        )
    checks.at_least("padding", padding, 0)
    return images
