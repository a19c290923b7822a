"""Boolean facts about directed graphs: cycles, orders, walks."""

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._stats import square
from jaxkit.dag._validate import is_traced
from jaxkit.typing import ArrayLike

__all__ = [
    "ancestors",
    "is_dag",
    "order_from_adjacency",
    "threshold_to_dag",
    "topological_order",
]


def as_edges(name: str, adjacency: ArrayLike) -> jax.Array:
    """Turns weights or marks into a bool matrix of edges."""
    array = jnp.asarray(adjacency)
    square(name, array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must be real, got {array.dtype}.")
    return array if array.dtype == jnp.bool_ else array != 0


def levels(edges: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The length of the longest path into each node; `d` for nodes behind a cycle.

    Sources are peeled off together, so the number of rounds is that of the longest
    path, each a product of a vector with the matrix.
    """
    d = edges.shape[0]
    table = edges.astype(jnp.float32)

    def peel(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        level, left, round_, _ = state
        entering = jnp.matmul(left.astype(jnp.float32), table)
        source = left & (entering == 0)
        level = jnp.where(source, round_, level)
        return level, left & ~source, round_ + 1, jnp.any(source)

    start = (
        jnp.full(d, d, jnp.int32),
        jnp.ones(d, bool),
        jnp.asarray(0, jnp.int32),
        jnp.asarray(True),
    )
    going = lambda state: state[3] & jnp.any(state[1])
    level, left, _, _ = jax.lax.while_loop(going, peel, start)
    return level, ~jnp.any(left)


@jit()
def is_dag(adjacency: ArrayLike) -> jax.Array:
    """Says whether a directed graph has no cycle.

    Sources are removed, all of a round at once, until none is left; the graph is
    acyclic when that removes every node. Exact, whatever the size of the weights.

    Args:
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``. A NaN is an edge.

    Returns:
      A bool scalar.

    Raises:
      TypeError: if ``adjacency`` is complex.
      ValueError: if ``adjacency`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.is_dag(jnp.array([[0.0, 1.0], [1.0, 0.0]])))
      False

    References:
      Kahn, *Topological Sorting of Large Networks*, CACM 1962.
    """
    return levels(as_edges("adjacency", adjacency))[1]


def topological_order(adjacency: ArrayLike) -> jax.Array:
    """Sorts the nodes of an acyclic graph so that parents come first.

    Nodes come by the length of the longest path into them, and by index among equals.

    Args:
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``.

    Returns:
      The order, int32, shape ``[d]``. Inside a compiled program a cycle cannot raise:
      nodes on or behind one come last, and ``checkify`` reports it.

    Raises:
      TypeError: if ``adjacency`` is complex.
      ValueError: if ``adjacency`` is not square, or has a cycle and is not traced.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.zeros((3, 3)).at[2, 0].set(1.5).at[0, 1].set(-1.0)
      >>> print(dag.topological_order(w))
      [2 0 1]

    References:
      Kahn, *Topological Sorting of Large Networks*, CACM 1962.
    """
    order, acyclic = _topological_order(adjacency)
    if is_traced(acyclic):
        checkify.debug_check(acyclic, "`adjacency` must be acyclic, got a cycle.")
    elif not bool(acyclic):
        raise ValueError("`adjacency` must be acyclic, got a cycle.")
    return order


@jit()
def _topological_order(adjacency: ArrayLike) -> tuple[jax.Array, jax.Array]:
    level, acyclic = levels(as_edges("adjacency", adjacency))
    return jnp.argsort(level, stable=True).astype(jnp.int32), acyclic


@jit()
def ancestors(adjacency: ArrayLike) -> jax.Array:
    r"""Marks the pairs of nodes that a walk joins.

    .. math:: R = \bigvee_{k \ge 1} A^k

    By repeated squaring: :math:`\lceil \log_2 d \rceil` boolean products.

    Args:
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``; cycles are allowed.

    Returns:
      Entry ``[i, j]`` is True where a walk of at least one edge leads from ``i`` to
      ``j``; bool, shape ``[d, d]``.

    Raises:
      TypeError: if ``adjacency`` is complex.
      ValueError: if ``adjacency`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> chain = jnp.eye(3, k=1)
      >>> print(dag.ancestors(chain).astype(int))
      [[0 1 1]
       [0 0 1]
       [0 0 0]]

    References:
      Warshall, *A Theorem on Boolean Matrices*, JACM 1962.
    """
    edges = as_edges("adjacency", adjacency)
    d = edges.shape[0]

    def double(_: int, reach: jax.Array) -> jax.Array:
        table = reach.astype(jnp.float32)
        # Sums of zeros and ones: positive exactly where a term is, at any precision.
        return reach | (jnp.matmul(table, table) > 0)

    return jax.lax.fori_loop(0, max(1, (d - 1).bit_length()), double, edges)


@jit()
def threshold_to_dag(weights: ArrayLike, *, threshold: ArrayLike = 0.3) -> jax.Array:
    r"""Drops small weights, and then the smallest ones until no cycle is left.

    .. math:: W_{ij} \leftarrow W_{ij}\, [\,|W_{ij}| \ge \tau\,]

    What is dropped beyond the threshold is the least number of smallest entries that
    leaves no cycle, found by bisection over their ranks.

    Args:
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.
      threshold: the smallest absolute weight kept, a scalar.

    Returns:
      The weights of an acyclic graph, shape ``[d, d]``, in the dtype of ``weights``.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``weights`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.array([[0.0, 1.5, 0.1], [0.4, 0.0, 0.0], [0.0, 0.9, 0.0]])
      >>> print(dag.threshold_to_dag(w))
      [[0.  1.5 0. ]
       [0.  0.  0. ]
       [0.  0.9 0. ]]

    References:
      Ng et al., *On the Role of Sparsity and DAG Constraints for Learning Linear
      DAGs*, NeurIPS 2020, section 4.2.
    """
    weights, threshold = checks.floating(weights=weights, threshold=threshold)
    square("weights", weights)
    d = weights.shape[0]
    size = jnp.abs(weights)
    kept = (size >= threshold.astype(weights.dtype)) & (weights != 0)
    ranked = jnp.where(kept, size, -1.0).ravel()
    rank = jnp.argsort(jnp.argsort(ranked, stable=True)).reshape(d, d)
    # A cycle of the graph without the k smallest stays one with fewer dropped.
    acyclic = lambda drop: levels(kept & (rank >= drop))[1]

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        low, high = bounds
        middle = (low + high) // 2
        good = acyclic(middle)
        return jnp.where(good, low, middle + 1), jnp.where(good, middle, high)

    bounds = (jnp.asarray(0, rank.dtype), jnp.asarray(d * d, rank.dtype))
    drop, _ = jax.lax.fori_loop(0, (d * d).bit_length(), halve, bounds)
    return jnp.where(kept & (rank >= drop), weights, 0.0)


@jit()
def order_from_adjacency(
    weights: ArrayLike, *, threshold: ArrayLike = 0.3
) -> jax.Array:
    """Gives a topological order of the result of another method.

    The weights go through :func:`threshold_to_dag` first, so cycles and small entries
    do no harm.

    Args:
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.
      threshold: the smallest absolute weight kept, a scalar.

    Returns:
      The order, int32, shape ``[d]``.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``weights`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.array([[0.0, 0.4, 0.0], [0.0, 0.0, 0.0], [2.0, 0.1, 0.0]])
      >>> print(dag.order_from_adjacency(w))
      [2 0 1]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      on starting from the output of another method.
    """
    return _topological_order(threshold_to_dag(weights, threshold=threshold))[0]
