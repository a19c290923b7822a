"""Random acyclic graphs and the weights of their edges."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.typing import ArrayLike, DTypeLike, Key

__all__ = ["sample_edge_weights", "sample_er_dag", "sample_sf_dag"]


@jit(static_argnames=("num_nodes", "edges_per_node"))
def sample_er_dag(key: Key, num_nodes: int, *, edges_per_node: int = 2) -> jax.Array:
    r"""Samples a graph with a given number of edges between pairs drawn evenly.

    Exactly :math:`k d` of the pairs of nodes are joined, each set of pairs equally
    likely, and the edges point along a random order: the setting called ERk.

    Args:
      key: a typed random key.
      num_nodes: the number ``d`` of nodes, at least 2; static.
      edges_per_node: ``k``, at least 1 and at most ``(d - 1) / 2``; static.

    Returns:
      The edges, bool, shape ``[d, d]``, entry ``[i, j]`` for ``i -> j``.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if a number is too small, or there are more edges than pairs.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> edges = dag.sample_er_dag(jax.random.key(0), 10, edges_per_node=2)
      >>> print(edges.sum(), dag.is_dag(edges))
      20 True

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 5.
    """
    _check(key, num_nodes, edges_per_node)
    num_pairs = num_nodes * (num_nodes - 1) // 2
    num_edges = edges_per_node * num_nodes
    if num_edges > num_pairs:
        raise ValueError(
            f"`edges_per_node` must be at most {(num_nodes - 1) / 2:g} for {num_nodes} "
            f"nodes, got {edges_per_node}."
        )
    key_pairs, key_order = jax.random.split(key)
    drawn = jax.random.permutation(key_pairs, num_pairs) < num_edges
    upper = jnp.zeros((num_nodes, num_nodes), bool)
    upper = upper.at[jnp.triu_indices(num_nodes, 1)].set(drawn)
    return _relabel(key_order, upper)


@jit(static_argnames=("num_nodes", "edges_per_node"))
def sample_sf_dag(key: Key, num_nodes: int, *, edges_per_node: int = 2) -> jax.Array:
    r"""Samples a scale-free graph by preferential attachment.

    Each new node points to :math:`k` different earlier ones (to all, while there are
    fewer), the more often the more already point to them: drawn one after another with
    probabilities proportional to the number of incoming edges plus one. That makes
    :math:`k d - k (k + 1) / 2` edges; the setting is called SFk.

    Args:
      key: a typed random key.
      num_nodes: the number ``d`` of nodes, at least 2; static.
      edges_per_node: ``k``, at least 1 and below ``d``; static.

    Returns:
      The edges, bool, shape ``[d, d]``, entry ``[i, j]`` for ``i -> j``.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if a number is too small or ``edges_per_node`` not below ``d``.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> edges = dag.sample_sf_dag(jax.random.key(0), 20, edges_per_node=4)
      >>> print(edges.sum(), dag.is_dag(edges))
      70 True

    References:
      Barabasi and Albert, *Emergence of Scaling in Random Networks*, Science 1999.
    """
    _check(key, num_nodes, edges_per_node)
    if edges_per_node >= num_nodes:
        raise ValueError(
            f"`edges_per_node` must be below {num_nodes}, got {edges_per_node}."
        )
    key_noise, key_order = jax.random.split(key)
    noise = jax.random.gumbel(key_noise, (num_nodes, num_nodes))
    node = jnp.arange(num_nodes, dtype=jnp.int32)

    def attach(incoming: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        new, gumbel = inputs
        # The k largest of log-weight plus Gumbel noise are k weighted draws without
        # replacement.
        score = jnp.where(node < new, jnp.log1p(incoming) + gumbel, -jnp.inf)
        _, chosen = jax.lax.top_k(score, edges_per_node)
        row = jnp.zeros(num_nodes, bool).at[chosen].set(True) & (node < new)
        return incoming + row.astype(incoming.dtype), row

    _, edges = jax.lax.scan(attach, jnp.zeros(num_nodes), (node, noise))
    return _relabel(key_order, edges)


@jit(static_argnames=("dtype",))
def sample_edge_weights(
    key: Key,
    adjacency: ArrayLike,
    *,
    low: ArrayLike = 0.5,
    high: ArrayLike = 2.0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    r"""Gives every edge a weight of random sign and size.

    .. math:: W_{ij} = A_{ij}\, s_{ij}\, u_{ij}, \qquad s_{ij} = \pm 1, \quad
        u_{ij} \sim U(\text{low}, \text{high})

    Args:
      key: a typed random key.
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``.
      low: the smallest absolute weight, a scalar.
      high: the largest absolute weight, a scalar.
      dtype: a floating dtype; None means the default one. Static.

    Returns:
      The weights, shape ``[d, d]``.

    Raises:
      TypeError: if ``key`` is not a typed key or a bound not real.
      ValueError: if ``adjacency`` is not square.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = dag.sample_edge_weights(jax.random.key(0), jnp.eye(3, k=1))
      >>> print((jnp.abs(w) >= 0.5).astype(int))
      [[0 1 0]
       [0 0 1]
       [0 0 0]]

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 5.
    """
    checks.typed_key(key)
    edges = as_edges("adjacency", adjacency)
    low, high = checks.floating(low=low, high=high)
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    key_size, key_sign = jax.random.split(key)
    unit = jax.random.uniform(key_size, edges.shape, dtype)
    size = low.astype(dtype) + (high - low).astype(dtype) * unit
    sign = jax.random.rademacher(key_sign, edges.shape, dtype)
    return jnp.where(edges, sign * size, 0.0)


def _check(key: Key, num_nodes: int, edges_per_node: int) -> None:
    checks.typed_key(key)
    checks.at_least("num_nodes", num_nodes, 2)
    checks.at_least("edges_per_node", edges_per_node, 1)


def _relabel(key: Key, edges: jax.Array) -> jax.Array:
    order = jax.random.permutation(key, edges.shape[0])
    return edges[order[:, None], order[None, :]]
