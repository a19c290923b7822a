"""Training of one network on the synthetic pairs."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.distillation._config import LOSSES
from jaxkit.distillation._networks import Network, Pool, Synthetic
from jaxkit.typing import Key, PyTree

__all__ = [
    "apply_updates",
    "draw_pairs",
    "init_model",
    "inner_step",
    "loss_factor",
    "pretrain",
]


def loss_factor(loss: str, num_outputs: int) -> float:
    """What the mean of squared errors is multiplied by."""
    return {"mean": 1.0, "half_mean": 0.5, "half_sum": 0.5 * num_outputs}[loss]


def apply_updates(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
) -> tuple[PyTree, PyTree]:
    """Takes one optimizer step; gives the parameters and the optimizer's memory."""
    # Optimizers mix dtypes in their counters and constants.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def init_model(
    key: Key, *, network: Network, optimizer: optax.GradientTransformation
) -> Pool:
    """Makes one network of age 0: no memory, no momentum, no statistics of data."""
    params, batch_stats = network.init(key)
    age = jnp.zeros((), jnp.int32)
    return Pool(params, batch_stats, optimizer.init(params), age)


def inner_step(
    model: Pool,
    synthetic: Synthetic,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    loss: str = "mean",
) -> Pool:
    r"""Trains one network for one step on synthetic pairs.

    .. math:: \min_\theta \frac{1}{n k} \sum_{i=1}^n
       \bigl\| h_\theta(X_{s,i}) - Y_{s,i} \bigr\|^2

    No augmentation and no mask: either would bias the gradient that later flows to the
    images. Normalization is in training mode. Not compiled: jit the caller.

    Args:
      model: one network, a :class:`Pool` without the leading axis.
      synthetic: the pairs to train on, all in one batch.
      network: its functions.
      optimizer: the inner optimizer.
      loss: ``"mean"`` as above, or ``"half_mean"`` or ``"half_sum"`` as in
        :class:`DistillConfig`.

    Returns:
      The network one step older.

    Raises:
      ValueError: if the outputs do not have the shape of the targets, or ``loss`` is
        unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> network = distillation.Network(
      ...     init=lambda key: (jnp.zeros((1, 1)), {}),
      ...     embed=lambda params, stats, x: x.reshape(x.shape[0], -1),
      ...     apply=lambda params, stats, x, train: (
      ...         x.reshape(x.shape[0], -1) @ params, stats),
      ... )
      >>> optimizer, params = optax.sgd(0.25), jnp.zeros((1, 1))
      >>> model = distillation.Pool(
      ...     params, {}, optimizer.init(params), jnp.zeros((), jnp.int32))
      >>> pairs = distillation.Synthetic(jnp.ones((1, 1, 1, 1)), jnp.full((1, 1), 2.0))
      >>> model = distillation.inner_step(
      ...     model, pairs, network=network, optimizer=optimizer)
      >>> print(model.params, model.age)
      [[1.]] 1

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024.
    """
    checks.one_of("loss", loss, LOSSES)

    def objective(params: PyTree) -> tuple[jax.Array, PyTree]:
        outputs, batch_stats = network.apply(
            params, model.batch_stats, synthetic.images, True
        )
        return _squared_error(outputs, synthetic.targets, loss), batch_stats

    grads, batch_stats = jax.grad(objective, has_aux=True)(model.params)
    params, opt_state = apply_updates(optimizer, grads, model.opt_state, model.params)
    return Pool(params, batch_stats, opt_state, model.age + 1)


def _squared_error(outputs: jax.Array, targets: jax.Array, loss: str) -> jax.Array:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"`network.apply` must give outputs of the shape of the targets, got "
            f"{outputs.shape} and {targets.shape}."
        )
    dtype = accumulation_dtype(outputs, targets)
    error = jnp.square(outputs.astype(dtype) - targets.astype(dtype))
    return loss_factor(loss, targets.shape[1]) * jnp.mean(error)


def draw_pairs(key: Key, synthetic: Synthetic, size: int | None) -> Synthetic:
    """Draws synthetic pairs without replacement; all, in order, if few enough."""
    count = synthetic.images.shape[0]
    if size is None or size >= count:
        return synthetic
    rows = jax.random.permutation(key, count)[:size]
    return jax.tree.map(lambda x: x[rows], synthetic)


# The functions of a network and the optimizer are static: a second call with the same
# ones finds the compiled step.
compiled_inner_step = jax.jit(
    functools.partial(inner_step), static_argnames=("network", "optimizer", "loss")
)
compiled_init = jax.jit(init_model, static_argnames=("network", "optimizer"))


def pretrain(
    key: Key,
    synthetic: Synthetic,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int | None = None,
    loss: str = "mean",
) -> tuple[PyTree, PyTree]:
    r"""Trains a new network on a distilled set, as its users do.

    .. math:: \theta_{t+1} = \theta_t - \eta \nabla_\theta \frac1n \sum_i
       \tfrac1k \| h_{\theta_t}(X_{s,i}) - Y_{s,i} \|^2

    Plain squared error, without augmentation. Batches go through the set in a new
    order in each epoch; the last one of an epoch may be smaller. A Python loop over a
    compiled step, since XLA on a CPU slows convolutions inside its own loops: do not
    put it under :func:`jax.jit`; :func:`jax.vmap` over keys works.

    Args:
      key: a typed random key.
      synthetic: the images and targets.
      network: the functions of the network; keep one object, each new one compiles.
      optimizer: an optax transformation, such as ``optax.chain(
        optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))`` in the paper.
      num_steps: optimizer steps.
      batch_size: pairs per step; None takes all.
      loss: see :func:`inner_step`.

    Returns:
      ``(params, batch_stats)``, for ``network.embed`` and ``network.apply``.

    Raises:
      TypeError: if ``key`` is no typed key or ``num_steps`` no integer.
      ValueError: if a number is too small, or outputs and targets differ in shape.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> network = distillation.Network(
      ...     init=lambda key: (jnp.zeros((1, 1)), {}),
      ...     embed=lambda params, stats, x: x.reshape(x.shape[0], -1),
      ...     apply=lambda params, stats, x, train: (
      ...         x.reshape(x.shape[0], -1) @ params, stats),
      ... )
      >>> pairs = distillation.Synthetic(jnp.ones((1, 1, 1, 1)), jnp.full((1, 1), 2.0))
      >>> params, _ = distillation.pretrain(
      ...     jax.random.key(0), pairs, network=network, optimizer=optax.sgd(0.25),
      ...     num_steps=2)
      >>> print(params)
      [[1.5]]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024.
    """
    checks.typed_key(key)
    checks.at_least("num_steps", num_steps, 0)
    count = synthetic.images.shape[0]
    size = count if batch_size is None else batch_size
    checks.at_least("batch_size", size, 1)
    init_key, order_key = jax.random.split(key)
    model = compiled_init(init_key, network=network, optimizer=optimizer)
    step = functools.partial(
        compiled_inner_step, network=network, optimizer=optimizer, loss=loss
    )
    per_epoch = -(-count // size)
    order = jnp.arange(count)
    for index in range(num_steps):
        batch = synthetic
        if per_epoch > 1:
            epoch, place = divmod(index, per_epoch)
            if place == 0:
                order = jax.random.permutation(
                    jax.random.fold_in(order_key, epoch), count
                )
            rows = order[place * size : (place + 1) * size]
            batch = jax.tree.map(lambda x, rows=rows: x[rows], synthetic)
        model = step(model, batch)
    return model.params, model.batch_stats
