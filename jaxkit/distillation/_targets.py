"""Targets of real images, computed once and looked up in every step."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.typing import ArrayLike, Key

__all__ = [
    "AugmentFn",
    "TargetBank",
    "TargetFn",
    "bank_images",
    "make_target_bank",
    "precompute_targets",
]

TargetFn: TypeAlias = Callable[[jax.Array], jax.Array]
"""A frozen teacher: images ``[batch, ...]`` to targets ``[batch, outputs]``."""

AugmentFn: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""``augment(key, images)`` gives images of the same shape."""


class TargetBank(NamedTuple):
    """Targets of a fixed set of augmented copies of every image.

    The copies are not stored: each is drawn again from its key when it is needed, see
    :func:`bank_images`.

    Attributes:
      targets: ``[num_copies, num_images, outputs]``.
      key: the typed key from which the copies are drawn.
    """

    targets: jax.Array
    key: jax.Array


def precompute_targets(
    target_fn: TargetFn, images: ArrayLike, *, batch_size: int = 512
) -> jax.Array:
    r"""Computes the targets of all images, batch by batch.

    .. math:: Y_i = g(x_i)

    For batches without augmentation: the teacher, often larger than the networks that
    learn from it, then runs once instead of in every step.

    Args:
      target_fn: the frozen teacher; compiled here.
      images: ``[num_images, height, width, channels]``.
      batch_size: images at a time.

    Returns:
      The targets, ``[num_images, outputs]``.

    Raises:
      TypeError: if ``images`` is not floating or ``batch_size`` no integer.
      ValueError: if there are no images or ``batch_size`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> mean = lambda images: images.mean((1, 2))
      >>> images = jnp.arange(3.0).reshape(3, 1, 1, 1)
      >>> print(distillation.precompute_targets(mean, images, batch_size=2)[:, 0])
      [0. 1. 2.]
    """
    images = _check(images, batch_size)
    run = jax.jit(target_fn)
    return _in_batches(lambda rows: run(images[rows]), images.shape[0], batch_size)


def make_target_bank(
    key: Key,
    target_fn: TargetFn,
    images: ArrayLike,
    *,
    augment: AugmentFn,
    num_copies: int,
    batch_size: int = 512,
) -> TargetBank:
    r"""Computes the targets of augmented copies of all images.

    .. math:: Y_{c, i} = g(\mathrm{augment}(k_{c, i}, x_i))

    Augmented batches without a teacher in the loop, at the price of ``num_copies``
    draws per image in place of ever new ones.

    Args:
      key: a typed random key.
      target_fn: the frozen teacher; compiled here.
      images: ``[num_images, height, width, channels]``.
      augment: the augmentation, such as :func:`crop_and_flip`.
      num_copies: copies of each image.
      batch_size: images at a time.

    Returns:
      The bank, for :func:`run_distillation`.

    Raises:
      TypeError: if ``key`` is no typed key, ``images`` not floating or a number no
        integer.
      ValueError: if there are no images or a number is less than 1.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> noise = lambda key, images: images + jax.random.normal(key, images.shape)
      >>> images, teacher = jnp.ones((5, 1, 1, 1)), lambda images: images[:, 0, 0]
      >>> bank = distillation.make_target_bank(
      ...     jax.random.key(0), teacher, images, augment=noise, num_copies=2)
      >>> bank.targets.shape
      (2, 5, 1)
    """
    checks.typed_key(key)
    checks.at_least("num_copies", num_copies, 1)
    images = _check(images, batch_size)
    run = jax.jit(
        lambda rows, copy: target_fn(
            _copies(key, images[rows], rows, jnp.full_like(rows, copy), augment)
        )
    )
    count = images.shape[0]
    copies = [
        _in_batches(lambda rows, c=c: run(rows, jnp.int32(c)), count, batch_size)
        for c in range(num_copies)
    ]
    return TargetBank(jnp.stack(copies), key)


def bank_images(
    bank: TargetBank,
    images: ArrayLike,
    rows: jax.Array,
    copies: jax.Array,
    *,
    augment: AugmentFn,
) -> tuple[jax.Array, jax.Array]:
    r"""Draws copies of a bank again, with their targets.

    .. math:: (\mathrm{augment}(k_{c, i}, x_i), \; Y_{c, i})

    Args:
      bank: the bank.
      images: all images that it was made of, ``[num_images, height, width, channels]``.
      rows: which images, integers ``[batch]``.
      copies: which copy of each, integers ``[batch]``.
      augment: the augmentation that the bank was made with.

    Returns:
      Images ``[batch, height, width, channels]`` and targets ``[batch, outputs]``.

    Raises:
      TypeError: if ``images`` is not floating.
      ValueError: if the bank was made of another number of images.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> noise = lambda key, images: images + jax.random.normal(key, images.shape)
      >>> images, teacher = jnp.ones((5, 1, 1, 1)), lambda images: images[:, 0, 0]
      >>> bank = distillation.make_target_bank(
      ...     jax.random.key(0), teacher, images, augment=noise, num_copies=2)
      >>> draw = jax.jit(lambda rows, copies: distillation.bank_images(
      ...     bank, images, rows, copies, augment=noise))
      >>> x, y = draw(jnp.array([4, 1]), jnp.array([0, 1]))
      >>> print(bool((teacher(x) == y).all()))
      True
    """
    (images,) = checks.floating(images=images)
    if bank.targets.shape[1] != images.shape[0]:
        raise ValueError(
            f"`bank` and `images` must hold as many images, got "
            f"{bank.targets.shape[1]} and {images.shape[0]}."
        )
    x = _copies(bank.key, images[rows], rows, copies, augment)
    return x, bank.targets[copies, rows]


def _copies(
    key: Key, x: jax.Array, rows: jax.Array, copies: jax.Array, augment: AugmentFn
) -> jax.Array:
    """Augments each image by a key of its own, so that batches do not matter."""

    def one(image: jax.Array, row: jax.Array, copy: jax.Array) -> jax.Array:
        image_key = jax.random.fold_in(jax.random.fold_in(key, copy), row)
        return augment(image_key, image[None])[0]

    return jax.vmap(one)(x, rows, copies)


def _in_batches(
    run: Callable[[jax.Array], jax.Array], count: int, size: int
) -> jax.Array:
    """Runs over all rows in batches of one size; the last one is filled up."""
    size = min(size, count)
    parts = [
        run(jnp.minimum(jnp.arange(start, start + size, dtype=jnp.int32), count - 1))
        for start in range(0, count, size)
    ]
    return jnp.concatenate(parts)[:count]


def _check(images: ArrayLike, batch_size: int) -> jax.Array:
    (images,) = checks.floating(images=images)
    checks.axis_size("images", images, 0, 1)
    checks.at_least("batch_size", batch_size, 1)
    return images
