"""Many steps of distillation on a set of real images."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkit._core import checks
from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._distill import distill_step
from jaxkit.distillation._keys import epoch_key, step_keys
from jaxkit.distillation._networks import (
    DistillMetrics,
    DistillState,
    KernelFn,
    Network,
)
from jaxkit.distillation._targets import AugmentFn, TargetBank, TargetFn, bank_images
from jaxkit.typing import ArrayLike

__all__ = ["run_distillation"]


def run_distillation(
    state: DistillState,
    images: ArrayLike,
    targets: ArrayLike | TargetBank | None,
    *,
    network: Network | KernelFn,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    config: DistillConfig,
    num_steps: int,
    batch_size: int,
    augment: AugmentFn | None = None,
    target_fn: TargetFn | None = None,
) -> tuple[DistillState, DistillMetrics]:
    r"""Takes many steps of distillation.

    .. math:: (X_s, Y_s)_{t+1} = \mathrm{step}\bigl((X_s, Y_s)_t, x_{I_t}, g(x_{I_t})
       \bigr)

    Batches go through the real images in a new order in each epoch, without those left
    over at its end. The order and all draws are functions of the key and the step in
    the state, so ``num_steps`` in one call or in several give the same result: save the
    state between calls, and go on from it later. Where the targets come from:

    * an array: one target per image. With ``augment`` as well it must not depend on the
      augmentation, as labels do not.
    * a :class:`TargetBank`, with the ``augment`` it was made with.
    * None: ``target_fn`` computes them in every step, from the augmented images.

    A Python loop over one compiled step, which it finds again when called with the same
    objects; the state inside is donated, ``state`` is not. For several devices write
    the loop around :func:`make_distill_step`.

    Args:
      state: the state, see :func:`init_distill_state`.
      images: all real images, ``[num_images, height, width, channels]``.
      targets: see above; arrays have shape ``[num_images, outputs]``.
      network: as in :func:`init_distill_state`.
      outer_optimizer: as in :func:`init_distill_state`.
      inner_optimizer: as in :func:`init_distill_state`.
      config: the settings.
      num_steps: how many steps.
      batch_size: real images per step.
      augment: ``augment(key, images)``, such as :func:`crop_and_flip`; None for none.
      target_fn: the frozen teacher, for ``targets=None``.

    Returns:
      The state after the steps, and a :class:`DistillMetrics` of NumPy arrays with a
      leading axis ``num_steps``.

    Raises:
      TypeError: if an array is not floating or a number no integer.
      ValueError: if shapes do not fit, the batch is larger than the set, or not exactly
        one of ``targets`` and ``target_fn`` is given.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> images = jax.random.normal(jax.random.key(0), (20, 2, 2, 1))
      >>> targets = images[:, 0, :2, 0]
      >>> parts = dict(
      ...     network=lambda x, y: jnp.einsum("ahwc,bhwc->ab", x, y),
      ...     outer_optimizer=optax.adam(0.05), inner_optimizer=optax.sgd(0.1),
      ...     config=distillation.DistillConfig.kip(learn_targets=True))
      >>> state = distillation.init_distill_state(
      ...     jax.random.key(1), images[:4], targets[:4], **parts)
      >>> state, metrics = distillation.run_distillation(
      ...     state, images, targets, num_steps=20, batch_size=10, **parts)
      >>> print(state.step, metrics.loss.shape)
      20 (20,)

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024, algorithm 1.
    """
    images, targets = _check(images, targets, target_fn, augment)
    checks.at_least("num_steps", num_steps, 1)
    checks.at_least("batch_size", batch_size, 1)
    count = images.shape[0]
    if batch_size > count:
        raise ValueError(
            f"`batch_size` must be at most the {count} images, got {batch_size}."
        )
    step = functools.partial(
        _step_on_rows,
        network=network,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        augment=augment,
        target_fn=target_fn,
    )
    first, per_epoch = int(state.step), count // batch_size
    order, ordered = jnp.arange(count), -1
    # The first step would delete the arrays of the caller.
    state = jax.tree.map(jnp.copy, state)
    history = []
    for index in range(first, first + num_steps):
        epoch, place = divmod(index, per_epoch)
        if epoch != ordered:
            order = jax.random.permutation(epoch_key(state.key, epoch), count)
            ordered = epoch
        rows = order[place * batch_size : (place + 1) * batch_size]
        state, metrics = step(state, images, targets, rows, config)
        history.append(metrics)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(history))
    return state, stacked


@functools.partial(
    jax.jit,
    static_argnames=(
        "network",
        "outer_optimizer",
        "inner_optimizer",
        "augment",
        "target_fn",
    ),
    donate_argnums=0,
)
def _step_on_rows(
    state: DistillState,
    images: jax.Array,
    targets: Any,
    rows: jax.Array,
    config: DistillConfig,
    *,
    augment: AugmentFn | None,
    target_fn: TargetFn | None,
    **parts: Any,
) -> tuple[DistillState, DistillMetrics]:
    key = step_keys(state.key, state.step).batch
    if isinstance(targets, TargetBank) and augment is not None:
        copies = jax.random.randint(
            key, rows.shape, 0, targets.targets.shape[0], jnp.int32
        )
        x, y = bank_images(targets, images, rows, copies, augment=augment)
    else:
        x = images[rows] if augment is None else augment(key, images[rows])
        y = targets[rows] if target_fn is None else target_fn(x)
    return distill_step(state, x, y, config=config, **parts)


def _check(
    images: ArrayLike,
    targets: ArrayLike | TargetBank | None,
    target_fn: TargetFn | None,
    augment: AugmentFn | None,
) -> tuple[jax.Array, Any]:
    (images,) = checks.floating(images=images)
    if (targets is None) == (target_fn is None):
        raise ValueError(
            "Exactly one of `targets` and `target_fn` must be given, got "
            f"{'neither' if targets is None else 'both'}."
        )
    if isinstance(targets, TargetBank):
        if augment is None:
            raise ValueError("`augment` is needed with a `TargetBank`, got None.")
        return images, targets
    if targets is None:
        return images, None
    (targets,) = checks.floating(targets=targets)
    if targets.shape[:1] != images.shape[:1]:
        raise ValueError(
            f"`images` and `targets` must have as many rows, got {images.shape} and "
            f"{targets.shape}."
        )
    return images, targets
