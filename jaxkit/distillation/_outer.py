"""The outer loss: how well the distilled set predicts the real targets."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._inner import loss_factor
from jaxkit.distillation._krr import kernel_ridge_predict
from jaxkit.distillation._networks import KernelFn, Network, Pool, Synthetic
from jaxkit.distillation._ridge import krr_fit, ridge_from_trace
from jaxkit.distillation._solvers import matmul
from jaxkit.ops import match_varying

__all__ = ["outer_value_and_grad"]


def outer_value_and_grad(
    synthetic: Synthetic,
    models: Pool | None,
    real: Synthetic,
    *,
    network: Network | KernelFn,
    config: DistillConfig,
    axis_name: str | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gives the outer loss and its gradient in what is learned, by field."""
    names = [
        name
        for name, learned in (
            ("images", config.learn_images),
            ("targets", config.learn_targets),
        )
        if learned
    ]

    def data_loss(learned: dict[str, jax.Array]) -> jax.Array:
        errors = _errors(
            synthetic._replace(**learned), models, real, network, config, axis_name
        )
        factor = loss_factor(config.loss, real.targets.shape[1])
        return factor * jnp.mean(errors) / _num_devices(axis_name)

    learned = {name: getattr(synthetic, name) for name in names}
    loss, grads = jax.value_and_grad(data_loss)(learned)
    if axis_name is not None:
        loss = jax.lax.psum(loss, axis_name)
    if config.margin_weight is None or "targets" not in grads:
        return loss, grads
    # Apart from the rest: it depends on no real image, so no device may add it twice.
    term, slope = jax.value_and_grad(_margin_term)(
        synthetic.targets, config.margin_weight
    )
    grads["targets"] = grads["targets"] + slope
    return loss + term.astype(loss.dtype), grads


def _margin_term(targets: jax.Array, weight: Any) -> jax.Array:
    if targets.shape[1] < 2:
        raise ValueError(
            "`margin_weight` must be None for targets of fewer than 2 outputs, got "
            f"targets of shape {targets.shape}."
        )
    top = jax.lax.top_k(targets, 2)[0]
    gap = jnp.minimum(top[:, 0] - top[:, 1], 1.0 / targets.shape[1])
    return -jnp.asarray(weight, targets.dtype) * jnp.mean(gap)


def _errors(
    synthetic: Synthetic,
    models: Pool | None,
    real: Synthetic,
    network: Network | KernelFn,
    config: DistillConfig,
    axis_name: str | None,
) -> jax.Array:
    """Squared errors of the predictions at the real images, ``[batch, outputs]``."""
    if config.flip_images:
        synthetic = Synthetic(
            jnp.concatenate([synthetic.images, synthetic.images[:, :, ::-1]]),
            jnp.concatenate([synthetic.targets, synthetic.targets]),
        )
    if isinstance(network, Network):
        pool = cast("Pool", models)
        predicted = _network_predict(
            synthetic, pool, real.images, network, config, axis_name
        )
    else:
        predicted = _kernel_predict(synthetic, real.images, network, config, axis_name)
    return jnp.square(predicted - real.targets.astype(predicted.dtype))


def _network_predict(
    synthetic: Synthetic,
    models: Pool,
    images: jax.Array,
    network: Network,
    config: DistillConfig,
    axis_name: str | None,
) -> jax.Array:
    feat_t = jax.lax.stop_gradient(_features(models, images, network, config))
    feat_s = _features(models, synthetic.images, network, config)
    ridge = _ridge(jnp.sum(jnp.square(feat_s)), feat_s.shape[0], config)
    weights = krr_fit(feat_s, synthetic.targets, ridge, method=config.method)
    # The cotangent of the weights is all that crosses devices; what comes before them
    # is computed on each alike.
    weights = _sum_cotangents(weights, images, axis_name)
    return matmul(feat_t.astype(weights.dtype), weights)


def _features(
    models: Pool, images: jax.Array, network: Network, config: DistillConfig
) -> jax.Array:
    """Features of one network or of several side by side, with their constant."""
    if models.age.shape[0] == 1:
        params, stats = jax.tree.map(
            lambda x: x[0], (models.params, models.batch_stats)
        )
        features = network.embed(params, stats, images)
    else:
        embed = lambda params, stats: network.embed(params, stats, images)
        features = jax.vmap(embed)(models.params, models.batch_stats)
        features = jnp.moveaxis(features, 0, 1).reshape(images.shape[0], -1)
    if features.ndim != 2:
        raise ValueError(
            f"`network.embed` must give features (batch, features), got "
            f"{features.shape} for images {images.shape}."
        )
    dtype = accumulation_dtype(features)
    features = features.astype(dtype)
    if config.feature_gain is not None:
        gain = jnp.asarray(config.feature_gain, dtype)
        features = features * jnp.sqrt(gain / features.shape[1])
    if not config.bias:
        return features
    column = jnp.asarray(config.bias_value, dtype)
    column = jnp.broadcast_to(column, (features.shape[0], 1))
    return jnp.concatenate([features, column], axis=1)


def _kernel_predict(
    synthetic: Synthetic,
    images: jax.Array,
    kernel: KernelFn,
    config: DistillConfig,
    axis_name: str | None,
) -> jax.Array:
    synthetic = _sum_cotangents(synthetic, images, axis_name)
    k_ss = kernel(synthetic.images, synthetic.images)
    k_ts = kernel(jax.lax.stop_gradient(images), synthetic.images)
    ridge = _ridge(jnp.trace(k_ss), k_ss.shape[0], config)
    return kernel_ridge_predict(k_ss, synthetic.targets, k_ts, ridge)


def _ridge(trace: jax.Array, num_examples: int, config: DistillConfig) -> jax.Array:
    ridge = ridge_from_trace(
        trace,
        coef=config.ridge_coef,
        num_examples=num_examples,
        scale=config.ridge_scale,
    )
    return jax.lax.stop_gradient(ridge) if config.stop_gradient_ridge else ridge


def _num_devices(axis_name: str | None) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def _sum_cotangents(tree: Any, like: jax.Array, axis_name: str | None) -> Any:
    """The identity; the cotangents of all devices are added on the way back."""
    if axis_name is None:
        return tree

    @jax.custom_vjp
    def identity(tree: Any) -> Any:
        return match_varying(tree, like)

    def backward(_: None, cotangent: Any) -> tuple[Any]:
        return (jax.lax.psum(cotangent, axis_name),)

    identity.defvjp(lambda tree: (identity(tree), None), backward)
    return identity(tree)
