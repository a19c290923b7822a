"""The original algorithm of topological swaps, move for move."""

import math

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._order import as_order, weights_in_place
from jaxkit.dag._select import SWAP, select_disjoint
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.dag._tables import swap_deltas
from jaxkit.dag._topo import TopoResult, check_search, iterate
from jaxkit.dag._topo_step import TopoState, make_moves, start_at
from jaxkit.typing import ArrayLike

__all__ = ["topo_paper", "topo_paper_sizes"]


def topo_paper_sizes(num_nodes: int) -> tuple[int, int, int]:
    r"""The sizes of the search sets that the original package chooses.

    .. math:: \min(\lfloor 1.5 d \rfloor, a), \quad \max(\lfloor 1.5 d \rfloor, a), \quad
        \min(\lfloor d / 10 \rfloor, 1), \qquad
        a = \min\bigl(\lfloor \sqrt d (d-1) \log_{10} d \rfloor, d (d-1) / 2\bigr)

    Args:
      num_nodes: the number ``d`` of nodes, at least 2.

    Returns:
      The sizes of the small and the large set, and the number of large searches; the
      sets hold no more than all pairs.

    Raises:
      ValueError: if ``num_nodes`` is less than 2.

    Examples:
      >>> from jaxkit import dag
      >>> print(dag.topo_paper_sizes(50))
      (75, 588, 1)

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, and
      the code of its authors.
    """
    checks.at_least("num_nodes", num_nodes, 2)
    d, pairs = num_nodes, num_nodes * (num_nodes - 1) // 2
    a = max(1, min(math.floor(math.sqrt(d) * (d - 1) * math.log10(d)), pairs))
    some = math.floor(1.5 * d)
    return min(some, a), min(max(some, a), pairs), min(d // 10, 1)


def topo_paper(
    stats: GramStats,
    order: ArrayLike,
    *,
    num_small: int | None = None,
    num_large: int | None = None,
    num_large_searches: int | None = None,
    max_steps: int = 1000,
) -> TopoResult:
    r"""Runs the original search by swaps, which ends in the same order.

    .. math:: \{(i, j) : j \text{ before } i,\ H_{ij} \le \tau\}, \qquad
        H = (I - |W|)^{-\top}

    Of the pairs whose reversed edge would close the least weight of walks, a small set
    is searched for improving exchanges; when it has none, a larger one, as often as the
    budget of successful large searches allows. Improving exchanges are made best first
    as long as their intervals are disjoint. All are scored by :func:`swap_deltas`
    instead of regressions, so the steps are the same and take a small part of the time.
    :func:`topo_search` finds better orders in less. The original does not center; give
    it moments made with ``center=False`` for the very same numbers.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: where to start, integers, shape ``[d]``.
      num_small: the size of the small set, ties included; None for that of
        :func:`topo_paper_sizes`.
      num_large: the size of the large set.
      num_large_searches: how many successful searches of the large set are allowed.
      max_steps: the most steps, at least 1; the original has no limit. Static.

    Returns:
      The result.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a size is less than 1 or more than the number of pairs, a shape
        does not fit, or, outside of a traced program, ``order`` is no permutation.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.zeros((3, 3)).at[0, 1].set(2.0).at[1, 2].set(-1.0)
      >>> stats = dag.gram_stats(dag.sample_linear_sem(jax.random.key(0), w, 1000))
      >>> print(dag.topo_paper(stats, jnp.array([2, 1, 0])).order)
      [0 1 2]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      algorithm 2.
    """
    check_search(stats, order, None)
    d = stats.gram.shape[0]
    pairs = d * (d - 1) // 2
    small, large, searches = topo_paper_sizes(d)
    num_small = _size("num_small", num_small, small, pairs)
    num_large = _size("num_large", num_large, large, pairs)
    if num_large_searches is None:
        num_large_searches = searches
    checks.at_least("num_large_searches", num_large_searches, 0)
    checks.at_least("max_steps", max_steps, 1)
    sizes = jnp.asarray([num_small, num_large, num_large_searches], jnp.int32)
    return _topo_paper(stats, order, sizes, max_steps=max_steps)


def _size(name: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    checks.at_least(name, value, 1)
    if value > most:
        raise ValueError(f"`{name}` must be at most {most}, got {value}.")
    return value


@jit(static_argnames=("max_steps",))
def _topo_paper(
    stats: GramStats, order: ArrayLike, sizes: jax.Array, *, max_steps: int
) -> TopoResult:
    stats = checked_stats(stats)
    d = stats.gram.shape[0]
    below = jnp.tril(jnp.ones((d, d), bool), -1)
    num_small, num_large, searches = sizes

    def advance(carry: tuple[TopoState, jax.Array]) -> tuple[TopoState, jax.Array]:
        state, used = carry
        closed = _walk_weights(state)
        ranked = jnp.sort(jnp.where(below, closed, jnp.inf).ravel())
        within = lambda size: below & (closed <= ranked[size - 1])
        deltas = swap_deltas(state.lower, state.inverse)
        total = 2.0 * state.loss
        improves = total + deltas < total
        small = within(num_small)
        large = within(num_large) & ~small
        any_small = jnp.any(small & improves)
        turn_large = ~any_small & (used < searches)
        pool = jnp.where(any_small, small, large & turn_large) & improves
        # Rows are the later nodes; the selection reads intervals [earlier, later].
        chosen = select_disjoint(jnp.where(pool, deltas, jnp.inf).T, method="greedy")
        swaps = jnp.full((d, d), SWAP, jnp.int32)
        new = make_moves(stats, state, chosen.starts, swaps)
        moved = jnp.any(new.order != state.order)
        return new, used + (turn_large & moved).astype(jnp.int32)

    return iterate(
        start_at(stats, as_order(order, d)),
        advance,
        max_steps,
        jnp.zeros((), jnp.int32),
    )


def _walk_weights(state: TopoState) -> jax.Array:
    """The gradient of the log-determinant at ``|W|``, over positions."""
    size = jnp.abs(weights_in_place(state.lower, state.inverse))
    eye = jnp.eye(size.shape[0], dtype=size.dtype)
    walks = jax.lax.linalg.triangular_solve(
        eye - size, eye, left_side=True, lower=False
    )
    return walks.T
