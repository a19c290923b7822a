"""Distillation as a state and a step."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._inner import apply_updates
from jaxkit.distillation._keys import step_keys
from jaxkit.distillation._networks import (
    DistillMetrics,
    DistillState,
    KernelFn,
    Network,
    Pool,
    Synthetic,
    check_pairs,
)
from jaxkit.distillation._outer import outer_value_and_grad
from jaxkit.distillation._pool import (
    draw_models,
    init_pool,
    select_models,
    update_pool,
)
from jaxkit.typing import ArrayLike, Key

__all__ = ["StepFn", "distill_step", "init_distill_state", "make_distill_step"]

StepFn: TypeAlias = Callable[..., tuple[DistillState, DistillMetrics]]
Optimizer: TypeAlias = optax.GradientTransformation


def init_distill_state(
    key: Key,
    images: ArrayLike,
    targets: ArrayLike,
    *,
    network: Network | KernelFn,
    outer_optimizer: Optimizer,
    inner_optimizer: Optimizer,
    config: DistillConfig,
) -> DistillState:
    r"""Starts a distillation: synthetic pairs, and a pool of networks of mixed ages.

    .. math:: t_i \sim \mathrm{Uniform}\{1, \dots, Z - 1\}

    Network ``i`` is trained on the pairs for :math:`t_i` of the :math:`Z` steps after
    which it will be replaced, so that the pool holds networks of all ages from the
    first step on. Runs a Python loop over compiled steps: not for use under
    :func:`jax.jit` or :func:`jax.vmap`.

    Args:
      key: a typed random key; all later randomness follows from it, too.
      images: the first synthetic images,
        ``[num_synthetic, height, width, channels]``; :func:`init_synthetic` makes them
        of real ones.
      targets: their targets, ``[num_synthetic, outputs]``.
      network: its functions; or a kernel, which needs no pool.
      outer_optimizer: trains images and targets, such as ``optax.adamw(1e-4,
        weight_decay=0.0)``.
      inner_optimizer: trains the networks, such as ``optax.chain(
        optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))``.
      config: the settings.

    Returns:
      The state before the first step.

    Raises:
      TypeError: if ``key`` is no typed key or an array is not floating.
      ValueError: if the shapes do not fit or the set is empty.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> state = distillation.init_distill_state(
      ...     jax.random.key(0), jnp.ones((2, 4, 4, 1)), jnp.eye(2),
      ...     network=lambda x, y: jnp.einsum("ahwc,bhwc->ab", x, y),
      ...     outer_optimizer=optax.adam(1e-2), inner_optimizer=optax.sgd(0.1),
      ...     config=distillation.DistillConfig.kip())
      >>> print(state.step, state.synthetic.images.shape)
      0 (2, 4, 4, 1)

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024, algorithm 1.
    """
    checks.typed_key(key)
    # Copies, for the state will be donated and the arguments must outlive it.
    synthetic = jax.tree.map(
        jnp.copy, check_pairs("images", images, "targets", targets)
    )
    run_key, pool_key = jax.random.split(key)
    pool = None
    if isinstance(network, Network):
        pool = init_pool(
            pool_key,
            synthetic,
            network=network,
            optimizer=inner_optimizer,
            config=config,
        )
    outer_opt_state = outer_optimizer.init(_learned(synthetic, config))
    step = jnp.zeros((), jnp.int32)
    return DistillState(synthetic, outer_opt_state, pool, run_key, step)


def distill_step(
    state: DistillState,
    real_images: ArrayLike,
    real_targets: ArrayLike,
    *,
    network: Network | KernelFn,
    outer_optimizer: Optimizer,
    inner_optimizer: Optimizer,
    config: DistillConfig,
    axis_name: str | None = None,
) -> tuple[DistillState, DistillMetrics]:
    r"""Moves the synthetic pairs towards predicting a real batch.

    .. math::

        J(X_s, Y_s) = \frac{1}{B k} \bigl\| F_t F_s^\top
            (F_s F_s^\top + \lambda I)^{-1} Y_s - Y_t \bigr\|^2, \qquad
        \lambda = c \operatorname{tr}(F_s F_s^\top)

    1. One network of the pool gives the features of synthetic and real images, in
       evaluation mode; no gradient flows to the real ones, and to the ridge only with
       ``stop_gradient_ridge=False``.
    2. The outer optimizer moves images and targets along the gradient of ``J``.
    3. The network makes one inner step on the *new* pairs, in training mode; or, after
       ``inner_steps`` of them, is replaced by a new one of age 0, without momentum or
       statistics.

    This is KRR-ST; ``config`` tells what its relatives do. A kernel instead of a network
    replaces the products of features, and step 3 falls away.

    Deterministic given the state. Not compiled: jit it and donate the state, so that
    the pool is written in place; :func:`make_distill_step` binds all but the arrays.

    Args:
      state: the state, see :func:`init_distill_state`.
      real_images: a batch as it enters the network, ``[batch, height, width,
        channels]``.
      real_targets: its targets, ``[batch, outputs]``.
      network: as in :func:`init_distill_state`.
      outer_optimizer: as in :func:`init_distill_state`.
      inner_optimizer: as in :func:`init_distill_state`.
      config: the settings; its numbers may be traced.
      axis_name: inside :func:`jax.shard_map`, the mesh axis over which the real batch
        is split in equal parts, with the state on all devices. The result is that of
        the whole batch: what is added over devices is the cotangent of the weights, so
        that all further steps agree.

    Returns:
      The next state and a :class:`DistillMetrics`.

    Raises:
      TypeError: if an array is not floating.
      ValueError: if the shapes do not fit those of the synthetic set, the batch is
        empty, or ``margin_weight`` is given for targets of one output.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> images, targets = jnp.eye(2).reshape(2, 2, 1, 1), jnp.eye(2)
      >>> parts = dict(
      ...     network=lambda x, y: jnp.einsum("ahwc,bhwc->ab", x, y),
      ...     outer_optimizer=optax.sgd(0.1), inner_optimizer=optax.sgd(0.1),
      ...     config=distillation.DistillConfig.kip())
      >>> state = distillation.init_distill_state(
      ...     jax.random.key(1), images, targets, **parts)
      >>> step = jax.jit(lambda *args: distillation.distill_step(*args, **parts))
      >>> state, metrics = step(state, images, targets)
      >>> print(state.step, metrics.finite)
      1 True

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024, algorithm 1.
    """
    real = _check_batch(state.synthetic, real_images, real_targets)
    if isinstance(network, Network) != (state.pool is not None):
        raise ValueError(
            "`state` must have been made with the same kind of `network`: a pool "
            f"belongs to a `Network` and not to a kernel, got {type(network).__name__}."
        )
    keys = step_keys(state.key, state.step)
    chosen, models = jnp.zeros(0, jnp.int32), None
    if state.pool is not None:
        chosen = draw_models(keys.models, config)
        models = select_models(state.pool, chosen)
    loss, grads = outer_value_and_grad(
        state.synthetic,
        models,
        real,
        network=network,
        config=config,
        axis_name=axis_name,
    )
    learned, outer_opt_state = apply_updates(
        outer_optimizer,
        grads,
        state.outer_opt_state,
        _learned(state.synthetic, config),
    )
    synthetic = state.synthetic._replace(**learned)
    pool = state.pool
    if pool is not None and isinstance(network, Network):
        pool = update_pool(
            keys.pool,
            pool,
            chosen,
            synthetic,
            network=network,
            optimizer=inner_optimizer,
            config=config,
        )
    metrics = _metrics(loss, grads, chosen, models)
    step = state.step + 1
    return DistillState(synthetic, outer_opt_state, pool, state.key, step), metrics


def make_distill_step(
    *,
    network: Network | KernelFn,
    outer_optimizer: Optimizer,
    inner_optimizer: Optimizer,
    config: DistillConfig,
    axis_name: str | None = None,
) -> StepFn:
    """Binds everything but the arrays of :func:`distill_step`.

    Args:
      network: as in :func:`init_distill_state`.
      outer_optimizer: as in :func:`init_distill_state`.
      inner_optimizer: as in :func:`init_distill_state`.
      config: the settings; its numbers become constants of the compiled step.
      axis_name: see :func:`distill_step`.

    Returns:
      ``step(state, real_images, real_targets)``, to be compiled with
      ``jax.jit(step, donate_argnums=0)``.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> images, targets = jnp.eye(2).reshape(2, 2, 1, 1), jnp.eye(2)
      >>> parts = dict(
      ...     network=lambda x, y: jnp.einsum("ahwc,bhwc->ab", x, y),
      ...     outer_optimizer=optax.sgd(0.1), inner_optimizer=optax.sgd(0.1),
      ...     config=distillation.DistillConfig.kip())
      >>> state = distillation.init_distill_state(
      ...     jax.random.key(1), images, targets, **parts)
      >>> step = jax.jit(distillation.make_distill_step(**parts), donate_argnums=0)
      >>> for _ in range(3):
      ...     state, metrics = step(state, images, targets)
      >>> print(state.step)
      3

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024, algorithm 1.
    """
    return functools.partial(
        distill_step,
        network=network,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        config=config,
        axis_name=axis_name,
    )


def _learned(synthetic: Synthetic, config: DistillConfig) -> dict[str, jax.Array]:
    """What the outer optimizer sees: the rest has no memory there and never moves."""
    fields = {"images": config.learn_images, "targets": config.learn_targets}
    return {name: getattr(synthetic, name) for name, used in fields.items() if used}


def _check_batch(
    synthetic: Synthetic, real_images: ArrayLike, real_targets: ArrayLike
) -> Synthetic:
    real = check_pairs("real_images", real_images, "real_targets", real_targets)
    pairs = (
        ("real_images", real.images, "images", synthetic.images),
        ("real_targets", real.targets, "targets", synthetic.targets),
    )
    for name, ours, other, theirs in pairs:
        if ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"`{name}` and the synthetic {other} must agree but for the first "
                f"axis, got {ours.shape} and {theirs.shape}."
            )
    return real


def _metrics(
    loss: jax.Array,
    grads: dict[str, jax.Array],
    chosen: jax.Array,
    models: Pool | None,
) -> DistillMetrics:
    def norm(name: str) -> jax.Array:
        if name not in grads:
            return jnp.zeros_like(loss)
        return jnp.sqrt(jnp.sum(jnp.square(grads[name].astype(loss.dtype))))

    norms: dict[str, Any] = {name: norm(name) for name in ("images", "targets")}
    finite = jnp.isfinite(loss)
    for grad in grads.values():
        finite = finite & jnp.all(jnp.isfinite(grad))
    ages = chosen if models is None else models.age
    return DistillMetrics(loss, norms["images"], norms["targets"], finite, chosen, ages)
