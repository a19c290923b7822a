"""A network small enough to be written down in NumPy, with running statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkit import distillation
from jaxkit.distillation import DistillConfig, DistillState, Network

__all__ = [
    "INNER",
    "NETWORK",
    "OUTER",
    "SHAPE",
    "data",
    "embed_numpy",
    "kernel",
    "network_numpy",
    "parts",
    "start",
]

SHAPE = (2, 2, 1)
HIDDEN, OUTPUTS = 3, 2
OUTER = optax.sgd(0.5)
INNER = optax.sgd(0.1, momentum=0.9)


def _flat(images: jax.Array) -> jax.Array:
    return images.reshape(images.shape[0], -1)


def _init(key: jax.Array) -> tuple[Any, Any]:
    first, second = jax.random.split(key)
    params = {
        "hidden": jax.random.normal(first, (4, HIDDEN)),
        "head": jax.random.normal(second, (HIDDEN, OUTPUTS)),
    }
    return params, {"mean": jnp.zeros(HIDDEN, params["hidden"].dtype)}


def _hidden(params: Any, images: jax.Array) -> jax.Array:
    return _flat(images).astype(params["hidden"].dtype) @ params["hidden"]


def _embed(params: Any, stats: Any, images: jax.Array) -> jax.Array:
    return jnp.tanh(_hidden(params, images) - stats["mean"][None])


def _apply(
    params: Any, stats: Any, images: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
    before = _hidden(params, images)
    mean = jnp.mean(before, axis=0)
    new = {"mean": 0.9 * stats["mean"] + 0.1 * mean}
    center, stats = (mean, new) if train else (stats["mean"], stats)
    return jnp.tanh(before - center[None]) @ params["head"], stats


NETWORK = Network(_init, _embed, _apply)


def embed_numpy(params: Any, stats: Any, images: np.ndarray) -> np.ndarray:
    before = images.reshape(len(images), -1) @ np.asarray(params["hidden"])
    return np.tanh(before - np.asarray(stats["mean"]))


def network_numpy(state: DistillState, index: int) -> Callable[..., np.ndarray]:
    params, stats = jax.tree.map(
        lambda x: np.asarray(x[index]), (state.pool.params, state.pool.batch_stats)
    )
    return lambda images: embed_numpy(params, stats, images)


def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    """A kernel of degree 2."""
    return jnp.square(1.0 + _flat(x) @ _flat(y).T)


def data(count: int, seed: int = 0, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *SHAPE))
    targets = rng.standard_normal((count, OUTPUTS))
    return jnp.asarray(images, dtype), jnp.asarray(targets, dtype)


def parts(config: DistillConfig, **changes: Any) -> dict[str, Any]:
    """What init, step and run take by keyword."""
    usual = {
        "network": NETWORK,
        "outer_optimizer": OUTER,
        "inner_optimizer": INNER,
        "config": config,
    }
    return {**usual, **changes}


def start(
    config: DistillConfig, *, count: int = 3, seed: int = 0, **changes: Any
) -> DistillState:
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    images, targets = data(count, seed=100, dtype=dtype)
    return distillation.init_distill_state(
        jax.random.key(seed), images, targets, **parts(config, **changes)
    )
