"""Markov classes: what observational data alone can tell about directions."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike

__all__ = ["cpdag_distance", "dag_to_cpdag", "meek_closure"]


def _some(left: jax.Array, right: jax.Array) -> jax.Array:
    """The boolean product of two matrices."""
    # Sums of zeros and ones: positive exactly where a term is, at any precision.
    return jnp.matmul(left.astype(jnp.float32), right.astype(jnp.float32)) > 0


def _apart(adjacent: jax.Array) -> jax.Array:
    """Pairs of different nodes that no edge joins."""
    return ~adjacent & ~jnp.eye(adjacent.shape[0], dtype=bool)


def _split(name: str, marks: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Directed edges, and undirected ones as a symmetric matrix."""
    marks = jnp.asarray(marks)
    square(name, marks)
    if not jnp.issubdtype(marks.dtype, jnp.signedinteger):
        raise TypeError(f"`{name}` must be signed integer, got {marks.dtype}.")
    undirected = (marks < 0) | (marks < 0).T
    return (marks > 0) & ~undirected, undirected


def _marks(directed: jax.Array, undirected: jax.Array) -> jax.Array:
    once = jnp.triu(undirected, 1).astype(jnp.int32)
    return directed.astype(jnp.int32) - once


def _close(directed: jax.Array, undirected: jax.Array) -> jax.Array:
    """Applies the rules until nothing changes."""
    apart = _apart(directed | directed.T | undirected)

    def colliders(row: jax.Array, directed: jax.Array) -> jax.Array:
        # For one a: the nodes b with a - c -> b, a - e -> b, where c and e are apart.
        paths = row[:, None] & directed
        return jnp.any(paths & _some(apart, paths), axis=0)

    def orient(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        directed, undirected, _ = state
        away = _some(directed.T, apart)
        shortcut = _some(directed, directed)
        doubled = jax.lax.map(lambda row: colliders(row, directed), undirected)
        new = undirected & (away | shortcut | doubled)
        # Only marks of no graph ask for both directions; they stay as they are.
        new = new & ~new.T
        return directed | new, undirected & ~(new | new.T), jnp.any(new)

    start = (directed, undirected, jnp.asarray(True))
    directed, undirected, _ = jax.lax.while_loop(lambda s: s[2], orient, start)
    return _marks(directed, undirected)


@jit()
def meek_closure(marks: ArrayLike) -> jax.Array:
    r"""Directs the undirected edges that can only point one way.

    Three rules are applied until nothing changes, for nodes ``a``, ``b``, ``c``, ``e``:

    1. ``a -> b - c`` with ``a`` and ``c`` not joined gives ``b -> c``: the other
       direction would make a new collider.
    2. ``a -> b -> c`` with ``a - c`` gives ``a -> c``: else there were a cycle.
    3. ``a - b``, ``a - c -> b`` and ``a - e -> b`` with ``c`` and ``e`` not joined give
       ``a -> b``: else one of both would happen.

    They are complete where the directed edges given are all colliders of a graph, not
    with directions known from elsewhere.

    Args:
      marks: integers, shape ``[d, d]``: 1 at ``[i, j]`` for ``i -> j``, and -1 at
        ``[i, j]`` or ``[j, i]`` for ``i - j``.

    Returns:
      The marks after closure, int32, shape ``[d, d]``, each undirected edge once, above
      the diagonal.

    Raises:
      TypeError: if ``marks`` does not hold signed integers.
      ValueError: if ``marks`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.meek_closure(jnp.array([[0, 1, 0], [0, 0, -1], [0, 0, 0]])))
      [[0 1 0]
       [0 0 1]
       [0 0 0]]

    References:
      Meek, *Causal Inference and Causal Explanation with Background Knowledge*, UAI
      1995, section 2.
    """
    return _close(*_split("marks", marks))


@jit()
def dag_to_cpdag(adjacency: ArrayLike) -> jax.Array:
    r"""The graph of a Markov class: directed where all its members agree.

    Colliders ``i -> k <- j`` of nodes ``i`` and ``j`` that are not joined keep their
    directions, all other edges lose them, and :func:`meek_closure` gives back those
    that follow.

    Args:
      adjacency: weights or marks of an acyclic graph, entry ``[i, j]`` not zero where
        ``i -> j``, shape ``[d, d]``.

    Returns:
      int32, shape ``[d, d]``: 1 at ``[i, j]`` for ``i -> j`` and -1, above the diagonal,
      for an undirected edge. :func:`count_accuracy` reads this form.

    Raises:
      TypeError: if ``adjacency`` is complex.
      ValueError: if ``adjacency`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> collider = jnp.array([[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
      >>> print(dag.dag_to_cpdag(collider))
      [[0 0 1 0]
       [0 0 1 0]
       [0 0 0 1]
       [0 0 0 0]]
      >>> print(dag.dag_to_cpdag(jnp.eye(3, k=1)))
      [[ 0 -1  0]
       [ 0  0 -1]
       [ 0  0  0]]

    References:
      Verma and Pearl, *Equivalence and Synthesis of Causal Models*, UAI 1990; Meek,
      *Causal Inference and Causal Explanation with Background Knowledge*, UAI 1995.
    """
    edges = as_edges("adjacency", adjacency)
    adjacent = edges | edges.T
    directed = edges & _some(_apart(adjacent), edges)
    return _close(directed, adjacent & ~directed & ~directed.T)


@jit()
def cpdag_distance(first: ArrayLike, second: ArrayLike) -> jax.Array:
    """Counts the pairs of nodes at which two partly directed graphs differ.

    A pair can be apart, undirected, or directed either way. Between the graphs of two
    Markov classes this is their structural Hamming distance.

    Args:
      first: marks as :func:`dag_to_cpdag` gives them, integers, shape ``[d, d]``.
      second: others of the same shape.

    Returns:
      The count, int32.

    Raises:
      TypeError: if an argument does not hold signed integers.
      ValueError: if an argument is not square or the shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> chain, fork = jnp.eye(3, k=1), jnp.zeros((3, 3)).at[1, jnp.array([0, 2])].set(1.0)
      >>> print(dag.cpdag_distance(dag.dag_to_cpdag(chain), dag.dag_to_cpdag(fork)))
      0

    References:
      Tsamardinos, Brown and Aliferis, *The Max-Min Hill-Climbing Bayesian Network
      Structure Learning Algorithm*, Machine Learning 2006, section 5.
    """
    codes = []
    for name, marks in (("first", first), ("second", second)):
        directed, undirected = _split(name, marks)
        code = directed.astype(jnp.int32) + 2 * directed.T.astype(jnp.int32)
        codes.append(code + 4 * undirected.astype(jnp.int32))
    one, other = codes
    if one.shape != other.shape:
        raise ValueError(
            "`first` and `second` must have the same shape, got "
            f"{one.shape} and {other.shape}."
        )
    return jnp.sum(jnp.triu(one != other, 1), dtype=jnp.int32)
