"""Which key serves what: no draw ever shares its key with another."""

from typing import NamedTuple

import jax

from jaxkit.typing import Key

__all__ = ["StepKeys", "epoch_key", "step_keys"]

# No run is that long, so the key of the orders is the key of no step.
_ORDERS = 2**32 - 1


class StepKeys(NamedTuple):
    """The keys of one outer step."""

    models: jax.Array
    pool: jax.Array
    batch: jax.Array


def step_keys(key: Key, step: jax.Array) -> StepKeys:
    """Gives the keys of a step of the run with the key `key`."""
    return StepKeys(*jax.random.split(jax.random.fold_in(key, step), 3))


def epoch_key(key: Key, epoch: int) -> jax.Array:
    """Gives the key of the order in which an epoch goes through the real images."""
    return jax.random.fold_in(jax.random.fold_in(key, _ORDERS), epoch)
