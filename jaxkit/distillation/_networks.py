"""What the algorithm carries from step to step, and how it calls a network."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "DistillMetrics",
    "DistillState",
    "KernelFn",
    "Network",
    "Pool",
    "Synthetic",
    "init_synthetic",
]

KernelFn: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""A kernel ``kernel(x, y)`` of images ``[n, ...]`` and ``[m, ...]``, ``[n, m]``."""


class Network(NamedTuple):
    """A network as three pure functions.

    Hashed by the identity of its functions: make it once and reuse it, so that what is
    compiled for it is found again. :func:`jaxkit.nn.network_functions` makes one of a
    Flax module.

    Attributes:
      init: ``init(key)`` gives ``(params, batch_stats)``, two pytrees of arrays;
        without running statistics the second is an empty dict.
      embed: ``embed(params, batch_stats, images)`` gives the features before the last
        layer, ``[batch, features]``, with the running statistics (evaluation mode).
      apply: ``apply(params, batch_stats, images, train)`` gives the outputs
        ``[batch, outputs]`` and the new ``batch_stats``. ``train`` is a Python bool:
        True normalizes by the batch and updates the statistics, False leaves them.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    embed: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    apply: Callable[[PyTree, PyTree, jax.Array, bool], tuple[jax.Array, PyTree]]


class Synthetic(NamedTuple):
    """The distilled set.

    Attributes:
      images: ``[num_synthetic, height, width, channels]``, in the space in which real
        images enter the network.
      targets: the vector that each image stands for, ``[num_synthetic, outputs]``.
    """

    images: jax.Array
    targets: jax.Array


class Pool(NamedTuple):
    """Networks at different ages, every leaf stacked along axis 0.

    One network of the pool is the same tuple without that axis.

    Attributes:
      params: the parameters.
      batch_stats: the running statistics of the normalization.
      opt_state: the memory of the inner optimizer.
      age: inner steps since the network was initialized, int32.
    """

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    age: jax.Array


class DistillState(NamedTuple):
    """What one step of distillation hands to the next.

    Every random choice is a function of ``key`` and ``step``, so a state that was
    saved goes on exactly as if it had never stopped.

    Attributes:
      synthetic: the distilled set.
      outer_opt_state: the memory of the outer optimizer.
      pool: the networks; None with a kernel in their place.
      key: the typed key of the whole run, never changed.
      step: outer steps done, int32.
    """

    synthetic: Synthetic
    outer_opt_state: PyTree
    pool: Pool | None
    key: jax.Array
    step: jax.Array


class DistillMetrics(NamedTuple):
    """What a step of distillation reports.

    Attributes:
      loss: the outer loss before the step, over the whole real batch.
      grad_norm_images: Euclidean norm of its gradient in the images; 0 if not learned.
      grad_norm_targets: the same in the targets.
      finite: whether the loss and both gradients are finite. The step is taken either
        way: what to do about it is up to the caller.
      models: which networks gave the features, int32 ``[models_per_step]``; empty with
        a kernel.
      ages: their ages before the step.
    """

    loss: jax.Array
    grad_norm_images: jax.Array
    grad_norm_targets: jax.Array
    finite: jax.Array
    models: jax.Array
    ages: jax.Array


def init_synthetic(
    images: ArrayLike,
    targets: ArrayLike,
    *,
    space: str = "normalized",
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
) -> Synthetic:
    r"""Starts a distilled set from real images.

    .. math:: X_s = x \quad\text{or}\quad X_s = \sigma \odot x + \mu

    Args:
      images: real images as they enter the network,
        ``[num_synthetic, height, width, channels]``.
      targets: their targets, ``[num_synthetic, outputs]``.
      space: ``"normalized"`` keeps the images; ``"raw"`` undoes the normalization, so
        that the distilled images start as pixels while real ones are normalized. The
        released code of the paper does so.
      mean: mean of the pixels :math:`\mu` of each channel, for ``"raw"``.
      std: their standard deviation :math:`\sigma`, for ``"raw"``.

    Returns:
      The distilled set.

    Raises:
      TypeError: if an array is not floating.
      ValueError: if the shapes do not fit, the set is empty or ``space`` is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> images, targets = jnp.ones((2, 8, 8, 1)), jnp.zeros((2, 5))
      >>> start = distillation.init_synthetic(
      ...     images, targets, space="raw", mean=0.5, std=0.25
      ... )
      >>> print(start.images[0, 0, 0])
      [0.75]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024.
    """
    checks.one_of("space", space, ("normalized", "raw"))
    synthetic = check_pairs("images", images, "targets", targets)
    if space == "normalized":
        return synthetic
    mean, std = checks.floating(mean=mean, std=std)
    shape, dtype = synthetic.images.shape, synthetic.images.dtype
    for name, value in (("mean", mean), ("std", std)):
        checks.broadcastable(name, value, shape[-1:])
    mean, std = (
        jnp.broadcast_to(v, shape[-1:])[None, None, None].astype(dtype)
        for v in (mean, std)
    )
    return Synthetic(synthetic.images * std + mean, synthetic.targets)


def check_pairs(
    image_name: str, images: ArrayLike, target_name: str, targets: ArrayLike
) -> Synthetic:
    """Turns images and targets into arrays of shapes that fit."""
    images, targets = checks.floating(**{image_name: images, target_name: targets})
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"`{image_name}` must have shape (batch, height, width, channels) and not "
            f"be empty, got {images.shape}."
        )
    if targets.ndim != 2 or targets.shape[0] != images.shape[0] or not targets.size:
        raise ValueError(
            f"`{target_name}` must have shape ({images.shape[0]}, outputs) for "
            f"`{image_name}` of shape {images.shape}, got {targets.shape}."
        )
    return Synthetic(images, targets)
