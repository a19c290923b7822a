"""The pool of networks: drawing, ageing and replacing its members."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._inner import (
    compiled_init,
    compiled_inner_step,
    draw_pairs,
    init_model,
    inner_step,
)
from jaxkit.distillation._networks import Network, Pool, Synthetic
from jaxkit.typing import Key

__all__ = ["draw_models", "init_pool", "select_models", "update_pool"]


def init_pool(
    key: Key,
    synthetic: Synthetic,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: DistillConfig,
) -> Pool:
    """Makes the networks and trains each to its first age. Runs on the host."""
    age_key, init_key, pairs_key = jax.random.split(key, 3)
    models = []
    for index, age in enumerate(_first_ages(age_key, config).tolist()):
        model = compiled_init(
            jax.random.fold_in(init_key, index), network=network, optimizer=optimizer
        )
        for step in range(age):
            step_key = jax.random.fold_in(pairs_key, index * config.inner_steps + step)
            model = compiled_inner_step(
                model,
                draw_pairs(step_key, synthetic, config.inner_batch_size),
                network=network,
                optimizer=optimizer,
                loss=config.loss,
            )
        models.append(model)
    return _stack_all(models)


@jax.jit
def _stack_all(models: list[Pool]) -> Pool:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def _first_ages(key: Key, config: DistillConfig) -> jax.Array:
    count = config.num_models
    if config.reset == "always_fresh":
        return jnp.zeros(count, jnp.int32)
    if config.first_ages == "even":
        return jnp.arange(count, dtype=jnp.int32) * config.inner_steps // count
    return jax.random.randint(key, (count,), 1, config.inner_steps, jnp.int32)


def draw_models(key: Key, config: DistillConfig) -> jax.Array:
    """Draws which networks give the features, int32 ``[models_per_step]``."""
    size = (config.models_per_step,)
    if config.models_per_step == 1:
        return jax.random.randint(key, size, 0, config.num_models, jnp.int32)
    order = jax.random.permutation(key, config.num_models)
    return order[: config.models_per_step].astype(jnp.int32)


def select_models(pool: Pool, chosen: jax.Array) -> Pool:
    """Reads members of the pool, stacked."""
    if chosen.size == 1:
        # A slice, which the compiler can read in place; a gather it may not.
        pick = lambda x: jax.lax.dynamic_slice_in_dim(x, chosen[0], 1)
    else:
        pick = lambda x: x[chosen]
    return jax.tree.map(pick, pool)


def update_pool(
    key: Key,
    pool: Pool,
    chosen: jax.Array,
    synthetic: Synthetic,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: DistillConfig,
) -> Pool:
    """Trains or replaces the networks that were drawn, or all of them."""
    age_one = functools.partial(
        _age, synthetic=synthetic, network=network, optimizer=optimizer, config=config
    )
    if config.pool_update == "all":
        keys = jax.random.split(key, config.num_models)
        return jax.vmap(age_one)(keys, pool)
    models = select_models(pool, chosen)
    if chosen.size == 1:
        # Not a vmap of one: that would turn its convolutions into grouped ones.
        return _write(pool, chosen, _stack(age_one(key, _unstack(models))))
    keys = jax.random.split(key, chosen.size)
    return _write(pool, chosen, jax.vmap(age_one)(keys, models))


def _age(
    key: Key,
    model: Pool,
    *,
    synthetic: Synthetic,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: DistillConfig,
) -> Pool:
    init_key, pairs_key = jax.random.split(key)
    fresh = init_model(init_key, network=network, optimizer=optimizer)
    if config.reset == "always_fresh":
        return fresh
    older = inner_step(
        model,
        draw_pairs(pairs_key, synthetic, config.inner_batch_size),
        network=network,
        optimizer=optimizer,
        loss=config.loss,
    )
    # Both branches are computed: gradients of convolutions inside lax.cond are many
    # times slower on a CPU, and to initialize costs next to nothing.
    expired = model.age >= config.inner_steps
    renewed = jax.tree.map(lambda a, b: jnp.where(expired, a, b), fresh, older)
    if config.reset == "never_recount":
        return renewed._replace(age=jnp.where(expired, model.age, older.age))
    return renewed


def _write(pool: Pool, chosen: jax.Array, models: Pool) -> Pool:
    if chosen.size == 1:
        put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
            old, new, chosen[0], 0
        )
    else:
        put = lambda old, new: old.at[chosen].set(new)
    return jax.tree.map(put, pool, models)


def _stack(model: Pool) -> Pool:
    return jax.tree.map(lambda x: x[None], model)


def _unstack(models: Pool) -> Pool:
    return jax.tree.map(lambda x: x[0], models)
