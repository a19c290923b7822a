"""Least squares of nodes on given sets of parents."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxkit._core import checks
from jaxkit.dag._stats import GramStats
from jaxkit.typing import ArrayLike

__all__ = ["as_mask", "as_node", "parent_limit", "refit", "regress"]

HIGHEST = jax.lax.Precision.HIGHEST


def as_mask(name: str, value: ArrayLike, num_nodes: int) -> jax.Array:
    """Turns marks of nodes into bool of shape ``[d]``."""
    array = jnp.asarray(value)
    checks.shape(name, array, (num_nodes,))
    if array.ndim != 1:
        raise ValueError(f"`{name}` must have shape ({num_nodes},), got {array.shape}.")
    return array if array.dtype == jnp.bool_ else array != 0


def as_node(node: ArrayLike, num_nodes: int) -> jax.Array:
    """Turns the index of a node into an int32 scalar."""
    array = jnp.asarray(node)
    if not jnp.issubdtype(array.dtype, jnp.integer) or array.ndim:
        raise TypeError(
            f"`node` must be an integer scalar, got {array.dtype} {array.shape}."
        )
    if not isinstance(array, jax.core.Tracer) and not 0 <= int(array) < num_nodes:
        raise ValueError(
            f"`node` must lie between 0 and {num_nodes - 1}, got {int(array)}."
        )
    return array.astype(jnp.int32)


def parent_limit(max_parents: int | None, num_nodes: int) -> int:
    """The most parents a node can have."""
    if max_parents is None:
        return num_nodes - 1
    checks.at_least("max_parents", max_parents, 1)
    return min(max_parents, num_nodes - 1)


def regress(
    stats: GramStats, node: jax.Array, parents: jax.Array, live: jax.Array
) -> jax.Array:
    """Weights of a node on some others.

    `parents` holds indices; those that are not `live` take no part and get 0.
    """
    cross = jnp.where(live, stats.gram[parents, node], 0.0)
    eye = jnp.eye(parents.shape[0], dtype=stats.gram.dtype)
    if stats.factor is None:
        both = live[:, None] & live[None, :]
        gram = jnp.where(both, stats.gram[parents[:, None], parents[None, :]], eye)
        lower = jnp.linalg.cholesky(gram, symmetrize_input=False)
        half = solve_triangular(lower, cross, lower=True)
        return solve_triangular(lower.T, half)
    # Idle columns are replaced by columns of their own, orthogonal to the data.
    columns = jnp.where(live[None, :], stats.factor[:, parents], 0.0)
    columns = jnp.concatenate([columns, jnp.where(live[None, :], 0.0, eye)])
    target = jnp.concatenate([stats.factor[:, node], jnp.zeros_like(cross)])
    basis, upper = jnp.linalg.qr(columns)
    half = jnp.matmul(basis.T, target, precision=HIGHEST)
    return jnp.where(live, solve_triangular(upper, half), 0.0)


def refit(stats: GramStats, edges: jax.Array, limit: int) -> jax.Array:
    """Regresses every node on its parents, gathered into small systems.

    Gives :func:`ols_given_parents`, but a column of NaN where a node has more parents
    than `limit`; and works on the factor of the data where there is one.
    """
    d = edges.shape[0]

    def column(node: jax.Array) -> jax.Array:
        marks = edges[:, node] & (jnp.arange(d, dtype=jnp.int32) != node)
        live, parents = jax.lax.top_k(marks.astype(jnp.float32), limit)
        weights = regress(stats, node, parents, live > 0)
        full = jnp.zeros(d, stats.gram.dtype).at[parents].set(weights)
        fits = jnp.sum(marks, dtype=jnp.int32) <= limit
        return jnp.where(fits, full, jnp.nan)

    return jax.lax.map(column, jnp.arange(d, dtype=jnp.int32)).T
