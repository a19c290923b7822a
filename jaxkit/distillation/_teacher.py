"""A teacher trained without labels, and frozen."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.distillation._augment import augment_view
from jaxkit.distillation._inner import apply_updates
from jaxkit.distillation._keys import epoch_key
from jaxkit.distillation._networks import Network
from jaxkit.distillation._self_supervised import barlow_twins_loss
from jaxkit.distillation._targets import AugmentFn, TargetFn
from jaxkit.typing import ArrayLike, Key, PyTree

__all__ = [
    "TeacherState",
    "init_teacher",
    "make_target_fn",
    "teacher_step",
    "train_teacher",
]

ViewLoss: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
Optimizer: TypeAlias = optax.GradientTransformation


class TeacherState(NamedTuple):
    """What one step of self-supervised training hands to the next.

    Attributes:
      params: parameters of the encoder and of the head, a pair.
      batch_stats: their running statistics, a pair.
      opt_state: the memory of the optimizer.
      key: the typed key of the whole run, never changed.
      step: steps done, int32.
    """

    params: tuple[PyTree, PyTree]
    batch_stats: tuple[PyTree, PyTree]
    opt_state: PyTree
    key: jax.Array
    step: jax.Array


def init_teacher(
    key: Key, *, encoder: Network, head: Network, optimizer: Optimizer
) -> TeacherState:
    """Starts a teacher: a random encoder, and a head for its training.

    Args:
      key: a typed random key; all later randomness follows from it, too.
      encoder: the network whose outputs will be the representation.
      head: the network on its outputs that the loss sees, such as
        :class:`jaxkit.nn.BarlowTwinsHead`; only ``init`` and ``apply`` are used.
      optimizer: an optax transformation.

    Returns:
      The state before the first step.

    Raises:
      TypeError: if ``key`` is no typed key.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> scale = distillation.Network(
      ...     init=lambda key: (jnp.ones(()), {}),
      ...     embed=lambda params, stats, x: x,
      ...     apply=lambda params, stats, x, train: (params * x, stats))
      >>> state = distillation.init_teacher(
      ...     jax.random.key(0), encoder=scale, head=scale, optimizer=optax.sgd(0.1))
      >>> print(state.step)
      0

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy
      Reduction*, ICML 2021.
    """
    checks.typed_key(key)
    run_key, encoder_key, head_key = jax.random.split(key, 3)
    pairs = (encoder.init(encoder_key), head.init(head_key))
    params, batch_stats = zip(*pairs, strict=True)
    step = jnp.zeros((), jnp.int32)
    return TeacherState(params, batch_stats, optimizer.init(params), run_key, step)


def teacher_step(
    state: TeacherState,
    images: ArrayLike,
    *,
    encoder: Network,
    head: Network,
    optimizer: Optimizer,
    augment: AugmentFn = augment_view,
    loss_fn: ViewLoss = barlow_twins_loss,
) -> tuple[TeacherState, jax.Array]:
    r"""Brings two views of each image together.

    .. math:: \min_\theta \mathcal L\bigl(h(g_\theta(x')), h(g_\theta(x''))\bigr)

    Each view goes through the networks by itself, in training mode, and moves the
    running statistics. Not compiled: jit the caller.

    Args:
      state: the state, see :func:`init_teacher`.
      images: a batch, ``[batch, height, width, channels]``, at least 2 images.
      encoder: as in :func:`init_teacher`.
      head: as in :func:`init_teacher`.
      optimizer: as in :func:`init_teacher`.
      augment: ``augment(key, images)`` draws a view.
      loss_fn: ``loss_fn(first, second)`` of two embeddings ``[batch, features]``, a
        scalar or one value per image.

    Returns:
      The next state, and the mean loss before the step.

    Raises:
      TypeError: if ``images`` is not floating.
      ValueError: if ``images`` does not have 4 axes or fewer than 2 rows.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> scale = distillation.Network(
      ...     init=lambda key: (jnp.ones(()), {}),
      ...     embed=lambda params, stats, x: x,
      ...     apply=lambda params, stats, x, train: (
      ...         params * x.reshape(x.shape[0], -1), stats))
      >>> parts = dict(encoder=scale, head=scale, optimizer=optax.sgd(0.1))
      >>> state = distillation.init_teacher(jax.random.key(0), **parts)
      >>> images = jnp.arange(128.0).reshape(8, 4, 4, 1)
      >>> step = jax.jit(lambda *args: distillation.teacher_step(*args, **parts))
      >>> state, loss = step(state, images)
      >>> print(state.step, bool(loss > 0))
      1 True

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy
      Reduction*, ICML 2021.
    """
    (images,) = checks.floating(images=images)
    if images.ndim != 4 or images.shape[0] < 2:
        raise ValueError(
            "`images` must have shape (batch, height, width, channels) with a batch of "
            f"at least 2, got {images.shape}."
        )
    keys = jax.random.split(jax.random.fold_in(state.key, state.step))
    views = [augment(keys[index], images) for index in range(2)]

    def objective(params: tuple[PyTree, PyTree]) -> tuple[jax.Array, tuple]:
        encoder_stats, head_stats = state.batch_stats
        embedded = []
        for view in views:
            x, encoder_stats = encoder.apply(params[0], encoder_stats, view, True)
            x, head_stats = head.apply(params[1], head_stats, x, True)
            embedded.append(x)
        return jnp.mean(loss_fn(*embedded)), (encoder_stats, head_stats)

    (loss, batch_stats), grads = jax.value_and_grad(objective, has_aux=True)(
        state.params
    )
    params, opt_state = apply_updates(optimizer, grads, state.opt_state, state.params)
    return TeacherState(params, batch_stats, opt_state, state.key, state.step + 1), loss


def train_teacher(
    state: TeacherState,
    images: ArrayLike,
    *,
    encoder: Network,
    head: Network,
    optimizer: Optimizer,
    num_steps: int,
    batch_size: int = 128,
    augment: AugmentFn = augment_view,
    loss_fn: ViewLoss = barlow_twins_loss,
) -> tuple[TeacherState, jax.Array]:
    r"""Takes many steps of self-supervised training.

    .. math:: \theta_{t+1} = \theta_t - \eta_t \nabla \mathcal L_{I_t}(\theta_t)

    Batches go through the images in a new order in each epoch, without those left over
    at its end. A Python loop over one compiled step, like :func:`run_distillation`, and
    like it exact when cut in pieces.

    Args:
      state: the state, see :func:`init_teacher`.
      images: all images, ``[num_images, height, width, channels]``.
      encoder: as in :func:`init_teacher`.
      head: as in :func:`init_teacher`.
      optimizer: as in :func:`init_teacher`.
      num_steps: how many steps.
      batch_size: images per step.
      augment: as in :func:`teacher_step`; keep one object, each new one compiles.
      loss_fn: as in :func:`teacher_step`.

    Returns:
      The state after the steps, and the loss before each, ``[num_steps]``.

    Raises:
      TypeError: if ``images`` is not floating or a number no integer.
      ValueError: if a number is too small, or the batch larger than the set.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> scale = distillation.Network(
      ...     init=lambda key: (jnp.ones(()), {}),
      ...     embed=lambda params, stats, x: x,
      ...     apply=lambda params, stats, x, train: (
      ...         params * x.reshape(x.shape[0], -1), stats))
      >>> parts = dict(encoder=scale, head=scale, optimizer=optax.sgd(0.1))
      >>> state = distillation.init_teacher(jax.random.key(0), **parts)
      >>> images = jnp.arange(128.0).reshape(8, 4, 4, 1)
      >>> state, losses = distillation.train_teacher(
      ...     state, images, num_steps=3, batch_size=4,
      ...     augment=lambda key, images: images, **parts)
      >>> print(state.step, losses.shape)
      3 (3,)

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy
      Reduction*, ICML 2021.
    """
    (images,) = checks.floating(images=images)
    checks.at_least("num_steps", num_steps, 1)
    checks.at_least("batch_size", batch_size, 2)
    count = images.shape[0]
    if batch_size > count:
        raise ValueError(
            f"`batch_size` must be at most the {count} images, got {batch_size}."
        )
    step = functools.partial(
        _compiled_step,
        encoder=encoder,
        head=head,
        optimizer=optimizer,
        augment=augment,
        loss_fn=loss_fn,
    )
    first, per_epoch = int(state.step), count // batch_size
    order, ordered = jnp.arange(count), -1
    losses = []
    for index in range(first, first + num_steps):
        epoch, place = divmod(index, per_epoch)
        if epoch != ordered:
            order = jax.random.permutation(epoch_key(state.key, epoch), count)
            ordered = epoch
        rows = order[place * batch_size : (place + 1) * batch_size]
        state, loss = step(state, images[rows])
        losses.append(loss)
    return state, jnp.stack(losses)


_compiled_step = jax.jit(
    functools.partial(teacher_step),
    static_argnames=("encoder", "head", "optimizer", "augment", "loss_fn"),
)


def make_target_fn(state: TeacherState, *, encoder: Network) -> TargetFn:
    r"""Freezes a teacher.

    .. math:: g(x) = g_\theta(x)

    Args:
      state: the state after its training.
      encoder: as in :func:`init_teacher`.

    Returns:
      ``target_fn(images)``: the outputs of the encoder in evaluation mode, without a
      gradient. Make it once: each new one compiles.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> scale = distillation.Network(
      ...     init=lambda key: (jnp.full((), 2.0), {}),
      ...     embed=lambda params, stats, x: x,
      ...     apply=lambda params, stats, x, train: (params * x, stats))
      >>> state = distillation.init_teacher(
      ...     jax.random.key(0), encoder=scale, head=scale, optimizer=optax.sgd(0.1))
      >>> target_fn = distillation.make_target_fn(state, encoder=scale)
      >>> print(target_fn(jnp.ones(2)))
      [2. 2.]
    """
    params, batch_stats = state.params[0], state.batch_stats[0]

    def target_fn(images: jax.Array) -> jax.Array:
        outputs, _ = encoder.apply(params, batch_stats, images, False)
        return jax.lax.stop_gradient(outputs)

    return target_fn
