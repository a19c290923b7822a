"""Pieces of the methods that descend on weights."""

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.dag._graphs import as_edges
from jaxkit.typing import ArrayLike, DTypeLike, PyTree

__all__ = ["adam", "as_pairs", "move"]


def as_pairs(name: str, pairs: ArrayLike | None, num_nodes: int) -> jax.Array:
    """Turns marks of pairs of nodes, None for none, into a bool matrix."""
    if pairs is None:
        return jnp.zeros((num_nodes, num_nodes), bool)
    edges = as_edges(name, pairs)
    checks.shape(name, edges, (num_nodes, num_nodes))
    return edges


def adam(
    learning_rate: ArrayLike, dtype: DTypeLike, b1: float, b2: float
) -> optax.GradientTransformation:
    """Adam with a step that may be traced."""
    rate = jnp.asarray(learning_rate).astype(dtype)
    return optax.chain(optax.scale_by_adam(b1=b1, b2=b2), optax.scale(-rate))


def move(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    memory: PyTree,
    params: PyTree,
) -> tuple[PyTree, PyTree]:
    """The updates of an optimizer, and its new memory."""
    # Optimizers mix dtypes in their counters and constants.
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradient, memory, params)
