"""One step of a search over topological orders."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._initial_orders import as_precedence
from jaxkit.dag._order import as_order, factor_order, invert_lower, is_permutation
from jaxkit.dag._relocate import relocate
from jaxkit.dag._select import (
    EARLIER,
    LATER,
    METHODS,
    SWAP,
    apply_moves,
    select_disjoint,
)
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.dag._tables import insertion_deltas, swap_deltas
from jaxkit.typing import ArrayLike

__all__ = [
    "TopoConfig",
    "TopoState",
    "init_topo",
    "make_moves",
    "precedence_of",
    "start_at",
    "step_from",
    "topo_step",
]


_STATIC = {"static": True}

# After so many updates the factors are taken from the moments again.
_OLDEST = 50


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TopoConfig:
    """How to search over orders.

    A pytree: names and counts are static, the tolerance and the precedences traced.

    Attributes:
      moves: ``"insert"``, ``"swap"`` or ``"both"``; static.
      select: how moves are combined, see :func:`select_disjoint`; static.
      score: ``"ev"``, the sum of the residual variances. ``"nv"``, the sum of their
        logarithms, is refused: for dense linear regressions it is ``log det G``
        whatever the order. Static.
      tol: the least gain of a move, relative to the sum of the residual variances; None
        means 1e-9 in float64 and 1e-8 in float32.
      max_steps: the most steps, at least 1; static.
      precedence: entry ``[i, j]`` not zero where ``i`` must come before ``j``, shape
        ``[d, d]``, without cycles; None for none.

    Raises:
      ValueError: if a name is unknown or ``max_steps`` less than 1.
    """

    moves: str = dataclasses.field(default="insert", metadata=_STATIC)
    select: str = dataclasses.field(default="optimal", metadata=_STATIC)
    score: str = dataclasses.field(default="ev", metadata=_STATIC)
    tol: ArrayLike | None = None
    max_steps: int = dataclasses.field(default=1000, metadata=_STATIC)
    precedence: ArrayLike | None = None

    def __post_init__(self) -> None:
        checks.one_of("moves", self.moves, ("insert", "swap", "both"))
        checks.one_of("select", self.select, METHODS)
        if self.score == "nv":
            raise ValueError(
                "`score` 'nv' cannot tell dense linear orders apart: the residual "
                "variances of every order multiply to det G. Use a sparse BIC score or "
                "non-linear features."
            )
        checks.one_of("score", self.score, ("ev",))
        checks.at_least("max_steps", self.max_steps, 1)


class TopoState(NamedTuple):
    """Where a search stands.

    Attributes:
      order: the nodes, parents first, int32, shape ``[d]``.
      lower: the factor ``C`` of :func:`order_cholesky`, shape ``[d, d]``.
      inverse: its inverse ``K``, shape ``[d, d]``.
      loss: :func:`order_loss`, a scalar.
      done: whether no move improves it any more, bool.
      age: for how many steps the factors were updated since they last came from the
        moments; -1 to ask for that. int32.
    """

    order: jax.Array
    lower: jax.Array
    inverse: jax.Array
    loss: jax.Array
    done: jax.Array
    age: jax.Array


def _place(stats: GramStats, order: jax.Array) -> TopoState:
    """The state at an order."""
    lower = factor_order(stats, order)
    age = jnp.asarray(0, jnp.int32)
    return TopoState(
        order, lower, invert_lower(lower), _loss(lower), jnp.asarray(False), age
    )


def _loss(lower: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.diagonal(lower) ** 2)


def start_at(stats: GramStats, order: jax.Array) -> TopoState:
    """The state at an order that may be no permutation: then the loss is NaN."""
    state = _place(stats, order)
    return state._replace(loss=jnp.where(is_permutation(order), state.loss, jnp.nan))


@jit()
def init_topo(stats: GramStats, order: ArrayLike) -> TopoState:
    """Starts a search at an order.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.

    Returns:
      The state; its loss is NaN if the moments are singular or the order is no
      permutation.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(f"{dag.init_topo(stats, jnp.array([1, 0])).loss:.4f}")
      2.6000

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      algorithm 1.
    """
    stats = checked_stats(stats)
    return start_at(stats, as_order(order, stats.gram.shape[0]))


@jit()
def topo_step(
    stats: GramStats, state: TopoState, config: TopoConfig | None = None
) -> TopoState:
    """Makes the chosen improving moves of one round.

    All moves are scored from the factor at hand, a disjoint set of them is made, and
    the new order is kept only if its recomputed loss is lower.

    Args:
      stats: the moments, from :func:`gram_stats`.
      state: from :func:`init_topo` or an earlier step.
      config: how to search; None means the defaults.

    Returns:
      The new state, or the old one marked as done.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> state = dag.init_topo(stats, jnp.array([1, 0]))
      >>> print(dag.topo_step(stats, state).order)
      [0 1]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      algorithm 1.
    """
    stats, config = checked_stats(stats), config or TopoConfig()
    as_order(state.order, stats.gram.shape[0])
    return step_from(stats, state, config, precedence_of(config, stats.gram.shape[0]))


def precedence_of(config: TopoConfig, num_nodes: int) -> jax.Array | None:
    """The precedences as a bool matrix, or None."""
    if config.precedence is None:
        return None
    return as_precedence(config.precedence, num_nodes)


def step_from(
    stats: GramStats,
    state: TopoState,
    config: TopoConfig,
    precedence: jax.Array | None,
) -> TopoState:
    """One round of a search on checked arguments."""
    deltas, kinds = _best_moves(state, config.moves, precedence)
    tol = config.tol
    if tol is None:
        tol = 1e-9 if deltas.dtype == jnp.float64 else 1e-8
    least = jnp.asarray(tol, deltas.dtype) * 2.0 * state.loss
    deltas = jnp.where(deltas < -least, deltas, jnp.inf)
    chosen = select_disjoint(deltas, method=config.select)
    return make_moves(stats, state, chosen.starts, kinds)


def make_moves(
    stats: GramStats, state: TopoState, starts: jax.Array, kinds: jax.Array
) -> TopoState:
    """Makes moves, and takes them back unless the recomputed loss is lower.

    A search is done only when factors fresh from the moments say so: with aged ones the
    step renews them instead.
    """
    starts = jnp.where(state.age < 0, -1, starts)
    kinds = kinds[starts, jnp.arange(starts.shape[0])]
    moves = jnp.any(starts >= 0)
    order = apply_moves(state.order, starts, kinds)
    lower, inverse, fresh = relocate(
        stats,
        order,
        state.lower,
        state.inverse,
        starts,
        kinds,
        ~moves | (state.age >= _OLDEST),
    )
    age = jnp.where(fresh, 0, state.age + 1)
    new = TopoState(order, lower, inverse, _loss(lower), jnp.asarray(False), age)
    old = state._replace(
        done=state.age == 0, age=jnp.where(state.age == 0, 0, -1).astype(age.dtype)
    )
    accept = jnp.where(moves, new.loss < state.loss, state.age != 0)
    return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)


def _best_moves(
    state: TopoState, moves: str, precedence: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The best change within each interval ``[p, q]``, and the kind of its move."""
    options = []
    if moves != "insert":
        options.append((SWAP, swap_deltas(state.lower, state.inverse)))
    if moves != "swap":
        table = insertion_deltas(state.lower, state.inverse)
        options += [(LATER, table), (EARLIER, table.T)]
    if precedence is not None:
        allowed = _allowed(state.order, precedence)
        options = [
            (kind, jnp.where(allowed[kind], delta, jnp.inf)) for kind, delta in options
        ]
    (kind, best), *others = options
    kinds = jnp.full_like(best, kind, dtype=jnp.int32)
    for kind, delta in others:
        kinds = jnp.where(delta < best, kind, kinds)
        best = jnp.minimum(best, delta)
    return best, kinds


def _allowed(order: jax.Array, precedence: jax.Array) -> dict[int, jax.Array]:
    """Which intervals ``[p, q]`` each kind of move may take."""
    table = precedence[order[:, None], order[None, :]]
    table = jnp.triu(table, 1).astype(jnp.int32)
    # p must precede a node up to q; q must follow a node from p on.
    later = jax.lax.cummax(table, axis=1) == 0
    earlier = jax.lax.cummax(table, axis=0, reverse=True) == 0
    return {LATER: later, EARLIER: earlier, SWAP: later & earlier}
