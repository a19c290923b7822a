"""Which moves to make at once, and making them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._order import as_order
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike

__all__ = [
    "EARLIER",
    "LATER",
    "METHODS",
    "SWAP",
    "Selection",
    "apply_moves",
    "select_disjoint",
]

METHODS = ("optimal", "greedy", "best")

# Kinds of moves of an interval (p, q): exchange its ends, put p after q, q before p.
SWAP, LATER, EARLIER = 0, 1, 2


class Selection(NamedTuple):
    """Intervals of positions that share none, from :func:`select_disjoint`.

    Attributes:
      delta: the sum of their changes, a scalar, never positive.
      starts: for each position the start of the chosen interval that ends there, or
        -1, int32, shape ``[d]``.
    """

    delta: jax.Array
    starts: jax.Array


@jit(static_argnames=("method",))
def select_disjoint(deltas: ArrayLike, *, method: str = "optimal") -> Selection:
    r"""Chooses moves that do not get in each other's way.

    .. math:: \min_{S \text{ disjoint}} \sum_{(p, q) \in S} w_{pq}

    The residual of a node depends on the set of its predecessors only, so the changes
    of moves within disjoint intervals of positions add up exactly. The best set comes
    from dynamic programming in ``O(d^2)``. Intervals that share an end are not
    disjoint.

    Args:
      deltas: entry ``[p, q]`` with ``p < q`` is the change that a move within positions
        ``p`` to ``q`` makes, shape ``[d, d]``; only negative entries above the diagonal
        count.
      method: ``"optimal"``; ``"greedy"``, which takes the best interval again and
        again, as the original algorithm does; ``"best"``, the single best one. Static.

    Returns:
      The selection. Ties go to the lowest start of the first end.

    Raises:
      TypeError: if ``deltas`` is not floating.
      ValueError: if it is not square or ``method`` unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.zeros((4, 4)).at[0, 1].set(-2.0).at[1, 2].set(-3.0).at[2, 3].set(-2.0)
      >>> print(dag.select_disjoint(w).starts)
      [-1  0 -1  2]
      >>> print(dag.select_disjoint(w, method="greedy").starts)
      [-1 -1  1 -1]

    References:
      Congram, Potts and van de Velde, *An Iterated Dynasearch Algorithm for the
      Single-Machine Total Weighted Tardiness Scheduling Problem*, INFORMS Journal on
      Computing 2002.
    """
    (deltas,) = checks.floating(deltas=deltas)
    square("deltas", deltas)
    checks.one_of("method", method, METHODS)
    above = jnp.triu(jnp.ones_like(deltas, dtype=bool), 1)
    gains = jnp.where(above & (deltas < 0), deltas, jnp.inf).T
    if method == "optimal":
        return _optimal(gains)
    return _greedy(gains, 1 if method == "best" else deltas.shape[0])


def _optimal(gains: jax.Array) -> Selection:
    """Dynamic programming over prefixes; row `q` of `gains` holds the intervals to `q`."""
    d = gains.shape[0]

    def extend(best: jax.Array, row: tuple) -> tuple[jax.Array, None]:
        end, gain = row
        # best[p] is the optimum over positions below p; gain is inf from p = end on.
        value = jnp.minimum(best[end], jnp.min(best[:-1] + gain))
        return best.at[end + 1].set(value), None

    ends = jnp.arange(d, dtype=jnp.int32)
    best, _ = jax.lax.scan(extend, jnp.zeros(d + 1, gains.dtype), (ends, gains))

    def backtrack(state: tuple) -> tuple:
        limit, starts = state
        # The last end at or below the limit whose optimum beats that without it.
        improving = (best[1:] < best[:-1]) & (ends < limit)
        end = jnp.max(jnp.where(improving, ends, -1))
        begin = jnp.argmin(best[:-1] + gains[end]).astype(jnp.int32)
        starts = starts.at[jnp.where(end >= 0, end, d)].set(begin, mode="drop")
        return jnp.where(end >= 0, begin, 0), starts

    nothing = (jnp.asarray(d, jnp.int32), jnp.full(d, -1, jnp.int32))
    _, starts = jax.lax.while_loop(lambda state: state[0] > 0, backtrack, nothing)
    return Selection(best[d], starts)


def _greedy(gains: jax.Array, most: int) -> Selection:
    d = gains.shape[0]
    end = jnp.arange(d, dtype=jnp.int32)[:, None]
    start = jnp.arange(d, dtype=jnp.int32)[None, :]

    def take(state: tuple) -> tuple:
        left, starts, delta, count = state
        best = jnp.argmin(left).astype(jnp.int32)
        q, p = best // d, best % d
        overlap = (start <= q) & (end >= p)
        delta = delta + left[q, p]
        left = jnp.where(overlap, jnp.inf, left)
        return left, starts.at[q].set(p), delta, count + 1

    going = lambda state: (jnp.min(state[0]) < jnp.inf) & (state[3] < most)
    nothing = (jnp.full(d, -1, jnp.int32), jnp.zeros((), gains.dtype))
    zero = jnp.asarray(0, jnp.int32)
    _, starts, delta, _ = jax.lax.while_loop(going, take, (gains, *nothing, zero))
    return Selection(delta, starts)


@jit()
def apply_moves(order: ArrayLike, starts: ArrayLike, kinds: ArrayLike) -> jax.Array:
    """Makes the chosen moves of an order, all at once.

    Args:
      order: the nodes, parents first, integers, shape ``[d]``.
      starts: the chosen intervals, as in :class:`Selection`, integers, shape ``[d]``.
      kinds: what to do in the interval that ends at each position, integers, shape
        ``[d]``: 0 exchanges its two ends, 1 puts the first node last, 2 puts the last
        node first; the others move up.

    Returns:
      The new order, int32, shape ``[d]``.

    Raises:
      TypeError: if an argument does not hold integers.
      ValueError: if the shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> starts = jnp.array([-1, 0, -1, -1, 2])
      >>> kinds = jnp.array([0, 0, 0, 0, 2])
      >>> print(dag.apply_moves(jnp.arange(5), starts, kinds))
      [1 0 4 2 3]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023.
    """
    d = jnp.shape(order)[0] if jnp.ndim(order) else 0
    order = as_order(order, d)
    starts, kinds = _indices("starts", starts, d), _indices("kinds", kinds, d)
    here = jnp.arange(d, dtype=jnp.int32)
    ends = jax.lax.cummin(jnp.where(starts >= 0, here, d - 1), reverse=True)
    start, kind = starts[ends], kinds[ends]
    inside = (start >= 0) & (start <= here)
    first, last = here == start, here == ends
    source = jnp.select(
        [kind == SWAP, kind == LATER, kind == EARLIER],
        [
            jnp.where(first, ends, jnp.where(last, start, here)),
            jnp.where(last, start, here + 1),
            jnp.where(first, ends, here - 1),
        ],
        here,
    )
    return order[jnp.where(inside, source, here)]


def _indices(name: str, value: ArrayLike, d: int) -> jax.Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must hold integers, got {array.dtype}.")
    if array.shape != (d,):
        raise ValueError(f"`{name}` must have shape ({d},), got {array.shape}.")
    return array.astype(jnp.int32)
