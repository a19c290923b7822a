"""Orders to start a search from."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.typing import ArrayLike, Key

__all__ = ["eqvar_order", "sample_order", "variance_order"]

HIGHEST = jax.lax.Precision.HIGHEST

# Columns of the factor found before the whole remainder is updated by one product.
_BLOCK = 32


def as_precedence(precedence: ArrayLike | None, num_nodes: int) -> jax.Array:
    """Turns required precedences, None for none, into a bool matrix."""
    if precedence is None:
        return jnp.zeros((num_nodes, num_nodes), bool)
    edges = as_edges("precedence", precedence)
    checks.shape("precedence", edges, (num_nodes, num_nodes))
    return edges


@jit()
def eqvar_order(stats: GramStats, *, precedence: ArrayLike | None = None) -> jax.Array:
    r"""Takes again and again the node with the least variance given those taken.

    .. math:: o_m = \arg\min_j \operatorname{Var}(x_j \mid x_{o_1}, \dots, x_{o_{m-1}})

    With noise of equal variances this is the true order in the limit of many samples.
    It is a Cholesky factorization that picks the smallest pivot, here in blocks. Ties
    go to the lowest index.

    Args:
      stats: the moments, from :func:`gram_stats`.
      precedence: entry ``[i, j]`` not zero where ``i`` must come before ``j``, shape
        ``[d, d]``, without cycles.

    Returns:
      The order, int32, shape ``[d]``.

    Raises:
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[5.0, 2.0], [2.0, 1.0]]))
      >>> print(dag.eqvar_order(stats))
      [1 0]

    References:
      Chen, Drton and Wang, *On Causal Discovery with an Equal-Variance Assumption*,
      Biometrika 2019, section 3.
    """
    stats = checked_stats(stats)
    precedence = as_precedence(precedence, stats.gram.shape[0])
    if stats.factor is None:
        return _eqvar_gram(stats.gram, precedence)
    return _eqvar_factor(stats.factor, precedence)


def _take(free: jax.Array, waiting: jax.Array, cost: jax.Array) -> jax.Array:
    """The cheapest free node that waits for no other."""
    # Finite, so that singular moments still give a permutation.
    ready = free & (waiting == 0)
    cost = jnp.where(jnp.isfinite(cost), cost, jnp.finfo(cost.dtype).max)
    return jnp.argmin(jnp.where(ready, cost, jnp.inf)).astype(jnp.int32)


def _eqvar_gram(gram: jax.Array, precedence: jax.Array) -> jax.Array:
    d = gram.shape[0]
    block = min(_BLOCK, d)

    def pick(step: jax.Array, state: tuple) -> tuple:
        rest, rows, variance, free, waiting, order, offset = state
        j = _take(free, waiting, variance)
        pivot = jnp.sqrt(jnp.maximum(variance[j], jnp.finfo(gram.dtype).tiny))
        # Rows of the block not yet found are zero and take no part.
        row = (rest[j] - jnp.matmul(rows[:, j], rows, precision=HIGHEST)) / pivot
        # The last block may reach past the last node.
        live = offset + step < d
        row = jnp.where(live, row, 0.0)
        order = order.at[jnp.where(live, offset + step, d)].set(j, mode="drop")
        waiting = waiting - jnp.where(live, precedence[j], False).astype(jnp.int32)
        free = free.at[j].set(jnp.where(live, False, free[j]))
        rows = rows.at[step].set(row)
        return rest, rows, variance - row**2, free, waiting, order, offset

    def advance(index: jax.Array, state: tuple) -> tuple:
        rest, variance, free, waiting, order = state
        rows = jnp.zeros((block, d), gram.dtype)
        inner = (rest, rows, variance, free, waiting, order, index * block)
        inner = jax.lax.fori_loop(0, block, pick, inner)
        rest, rows, variance, free, waiting, order, _ = inner
        rest = rest - jnp.matmul(rows.T, rows, precision=HIGHEST)
        return rest, variance, free, waiting, order

    start = (gram, jnp.diagonal(gram), *_nothing_taken(precedence))
    return jax.lax.fori_loop(0, -(-d // block), advance, start)[-1]


def _eqvar_factor(factor: jax.Array, precedence: jax.Array) -> jax.Array:
    """The same from a factor of the moments, by modified Gram-Schmidt."""
    d = factor.shape[0]

    def pick(step: jax.Array, state: tuple) -> tuple:
        columns, free, waiting, order = state
        variance = jnp.sum(columns * columns, axis=0)
        j = _take(free, waiting, variance)
        tiny = jnp.finfo(factor.dtype).tiny
        unit = columns[:, j] / jnp.sqrt(jnp.maximum(variance[j], tiny))
        along = jnp.matmul(unit, columns, precision=HIGHEST)
        columns = columns - unit[:, None] * along[None, :]
        waiting = waiting - precedence[j].astype(jnp.int32)
        return columns, free.at[j].set(False), waiting, order.at[step].set(j)

    start = (factor, *_nothing_taken(precedence))
    return jax.lax.fori_loop(0, d, pick, start)[-1]


def _nothing_taken(
    precedence: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every node free, what it waits for, and an order to fill."""
    d = precedence.shape[0]
    waiting = jnp.sum(precedence, axis=0, dtype=jnp.int32)
    return jnp.ones(d, bool), waiting, jnp.zeros(d, jnp.int32)


def _by_priority(cost: jax.Array, precedence: ArrayLike | None) -> jax.Array:
    """Sorts by cost, each node after those that must come before it."""
    d = cost.shape[0]
    if precedence is None:
        return jnp.argsort(cost, stable=True).astype(jnp.int32)
    table = as_precedence(precedence, d)

    def pick(step: jax.Array, state: tuple) -> tuple:
        free, waiting, order = state
        j = _take(free, waiting, cost)
        waiting = waiting - table[j].astype(jnp.int32)
        return free.at[j].set(False), waiting, order.at[step].set(j)

    return jax.lax.fori_loop(0, d, pick, _nothing_taken(table))[-1]


@jit()
def variance_order(
    stats: GramStats, *, precedence: ArrayLike | None = None
) -> jax.Array:
    r"""Sorts the nodes by their variance.

    .. math:: G_{o_1 o_1} \le G_{o_2 o_2} \le \dots

    No method, but the yardstick for one: on simulated data with noise of equal
    variances it is often nearly right. Ties go to the lowest index.

    Args:
      stats: the moments, from :func:`gram_stats`.
      precedence: entry ``[i, j]`` not zero where ``i`` must come before ``j``, shape
        ``[d, d]``, without cycles.

    Returns:
      The order, int32, shape ``[d]``.

    Raises:
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[5.0, 2.0], [2.0, 1.0]]))
      >>> print(dag.variance_order(stats))
      [1 0]

    References:
      Reisach, Seiler and Weichwald, *Beware of the Simulated DAG!*, NeurIPS 2021.
    """
    return _by_priority(jnp.diagonal(checked_stats(stats).gram), precedence)


@jit(static_argnames=("num_nodes",))
def sample_order(
    key: Key, num_nodes: int, *, precedence: ArrayLike | None = None
) -> jax.Array:
    """Samples an order at random.

    Without precedences all orders are equally likely. With them every consistent order
    can come, not all with the same probability.

    Args:
      key: a typed random key.
      num_nodes: the number ``d`` of nodes, at least 2; static.
      precedence: entry ``[i, j]`` not zero where ``i`` must come before ``j``, shape
        ``[d, d]``, without cycles.

    Returns:
      The order, int32, shape ``[d]``.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if ``num_nodes`` is less than 2 or a shape does not fit.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> order = dag.sample_order(jax.random.key(0), 4)
      >>> print(sorted(order.tolist()))
      [0, 1, 2, 3]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      which starts from random orders.
    """
    checks.typed_key(key)
    checks.at_least("num_nodes", num_nodes, 2)
    shuffled = jax.random.permutation(key, num_nodes).astype(jnp.float32)
    return _by_priority(shuffled, precedence)
