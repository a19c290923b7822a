"""Search over topological orders by insertions and swaps."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._initial_orders import as_precedence, sample_order
from jaxkit.dag._order import (
    as_order,
    factor_order,
    invert_lower,
    is_permutation,
    to_nodes,
    weights_in_place,
)
from jaxkit.dag._relocate import relocate
from jaxkit.dag._select import (
    EARLIER,
    LATER,
    METHODS,
    SWAP,
    apply_moves,
    select_disjoint,
)
from jaxkit.dag._stats import GramStats, check_type, checked_stats
from jaxkit.dag._tables import insertion_deltas, swap_deltas
from jaxkit.dag._validate import is_traced, validate_order, warn_of_scale
from jaxkit.typing import ArrayLike, Key

__all__ = [
    "RestartsResult",
    "TopoConfig",
    "TopoResult",
    "TopoState",
    "init_topo",
    "topo_search",
    "topo_search_restarts",
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


class TopoResult(NamedTuple):
    """What a search found.

    Attributes:
      order: the nodes, parents first, int32, shape ``[d]``.
      loss: :func:`order_loss`, a scalar; NaN if the moments are singular.
      weights: :func:`ols_given_order`, shape ``[d, d]``.
      num_steps: how many steps changed the order, int32.
      converged: whether no move improves the loss, bool; False with NaN.
      loss_history: the loss after each number of steps, the last one repeated, shape
        ``[max_steps + 1]``.
    """

    order: jax.Array
    loss: jax.Array
    weights: jax.Array
    num_steps: jax.Array
    converged: jax.Array
    loss_history: jax.Array


class RestartsResult(NamedTuple):
    """What :func:`topo_search_restarts` found.

    Attributes:
      best: the result with the least loss.
      orders: where every search ended, int32, shape ``[num_restarts, d]``.
      losses: the loss of each, shape ``[num_restarts]``.
    """

    best: TopoResult
    orders: jax.Array
    losses: jax.Array


def place(stats: GramStats, order: jax.Array) -> TopoState:
    """The state at an order."""
    lower = factor_order(stats, order)
    age = jnp.asarray(0, jnp.int32)
    return TopoState(
        order, lower, invert_lower(lower), _loss(lower), jnp.asarray(False), age
    )


def _loss(lower: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.diagonal(lower) ** 2)


def start(stats: GramStats, order: jax.Array) -> TopoState:
    """The state at an order that may be no permutation: then the loss is NaN."""
    state = place(stats, order)
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
    return start(stats, as_order(order, stats.gram.shape[0]))


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
    return step(stats, state, config, precedence_of(config, stats.gram.shape[0]))


def precedence_of(config: TopoConfig, num_nodes: int) -> jax.Array | None:
    """The precedences as a bool matrix, or None."""
    if config.precedence is None:
        return None
    return as_precedence(config.precedence, num_nodes)


def step(
    stats: GramStats,
    state: TopoState,
    config: TopoConfig,
    precedence: jax.Array | None,
) -> TopoState:
    """One round of a search on checked arguments."""
    deltas, kinds = best_moves(state, config.moves, precedence)
    tol = config.tol
    if tol is None:
        tol = 1e-9 if deltas.dtype == jnp.float64 else 1e-8
    least = jnp.asarray(tol, deltas.dtype) * 2.0 * state.loss
    deltas = jnp.where(deltas < -least, deltas, jnp.inf)
    chosen = select_disjoint(deltas, method=config.select)
    return move(stats, state, chosen.starts, kinds)


def move(
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


def best_moves(
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


@jit()
def _topo_search(stats: GramStats, order: ArrayLike, config: TopoConfig) -> TopoResult:
    stats = checked_stats(stats)
    order = as_order(order, stats.gram.shape[0])
    precedence = precedence_of(config, order.shape[0])
    advance = lambda carry: (step(stats, carry[0], config, precedence), carry[1])
    return iterate(start(stats, order), advance, config.max_steps)


def iterate(
    state: TopoState,
    advance: Callable[[tuple[TopoState, Any]], tuple[TopoState, Any]],
    max_steps: int,
    memory: Any = None,
) -> TopoResult:
    """Steps until done, and keeps the losses; `memory` is the caller's own."""

    def body(carry: tuple) -> tuple:
        old, memory, count, history = carry
        state, memory = advance((old, memory))
        count = count + jnp.any(state.order != old.order).astype(jnp.int32)
        return state, memory, count, history.at[count].set(state.loss)

    # A loss of NaN ends the search: no comparison with it holds.
    going = lambda carry: (
        ~carry[0].done & (carry[2] < max_steps) & (carry[0].loss < jnp.inf)
    )
    history = jnp.full(max_steps + 1, state.loss)
    first = (state, memory, jnp.asarray(0, jnp.int32), history)
    state, _, count, history = jax.lax.while_loop(going, body, first)
    made = jnp.arange(max_steps + 1, dtype=jnp.int32) <= count
    history = jnp.where(made, history, state.loss)
    weights = to_nodes(weights_in_place(state.lower, state.inverse), state.order)
    weights = jnp.where(jnp.isfinite(state.loss), weights, jnp.nan)
    return TopoResult(state.order, state.loss, weights, count, state.done, history)


def topo_search(
    stats: GramStats, order: ArrayLike, config: TopoConfig | None = None
) -> TopoResult:
    r"""Descends over orders until no move lowers the least-squares loss.

    .. math:: \min_{\text{orders}} \tfrac12 \sum_m
        \operatorname{Var}(x_{o_m} \mid x_{o_1}, \dots, x_{o_{m-1}})

    Each step scores every move of the order from one factorization, makes the best set
    of moves that do not interfere, and factors again. The loss strictly decreases, and
    the end is a local optimum under all moves. Compiled once for each number of nodes
    and configuration; map it with ``jax.vmap`` over orders or data sets. Not
    differentiable in reverse mode.

    Args:
      stats: the moments, from :func:`gram_stats`.
      order: where to start, integers, shape ``[d]``; :func:`eqvar_order` is best.
      config: how to search; None means the defaults.

    Returns:
      The result. Edges are what is left of ``weights`` after thresholding, for example
      by :func:`threshold_to_dag`.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit; and outside of a traced program if ``order``
        is no permutation, contradicts the precedences, or these have a cycle.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.zeros((3, 3)).at[0, 1].set(2.0).at[1, 2].set(-1.0)
      >>> stats = dag.gram_stats(dag.sample_linear_sem(jax.random.key(0), w, 1000))
      >>> print(dag.topo_search(stats, jnp.array([2, 1, 0])).order)
      [0 1 2]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023;
      insertions, their closed form and the joint selection are ours.
    """
    config = config or TopoConfig()
    check_search(stats, order, config.precedence)
    return _topo_search(stats, order, config)


def check_search(
    stats: GramStats, order: ArrayLike | None, precedence: ArrayLike | None
) -> None:
    """Looks at what is known on the host: order, precedences and scale."""
    check_type(stats)
    d = stats.gram.shape[0]
    if order is not None and not is_traced(order):
        as_order(order, d)
        validate_order(order, d)
    if precedence is not None and not is_traced(precedence):
        table = np.asarray(precedence) != 0
        as_precedence(precedence, d)
        _check_acyclic(table)
        if order is not None and not is_traced(order):
            _check_consistent(np.asarray(order), table)
    if not is_traced(stats):
        # Known values stay known also while a caller's program is being traced.
        with jax.ensure_compile_time_eval():
            variances = jnp.diagonal(stats.gram)
        warn_of_scale(np.asarray(variances, np.float64))


def _check_acyclic(table: np.ndarray) -> None:
    # In NumPy: inside a traced program JAX would trace this as well.
    left = np.ones(len(table), bool)
    while left.any():
        source = left & ~table[left].any(axis=0)
        if not source.any():
            raise ValueError("`precedence` must be acyclic, got a cycle.")
        left &= ~source


def _check_consistent(order: np.ndarray, table: np.ndarray) -> None:
    position = np.argsort(order)
    wrong = np.argwhere(table & (position[:, None] >= position[None, :]))
    if wrong.size:
        i, j = wrong[0]
        raise ValueError(f"`order` must agree with `precedence`, got {j} before {i}.")


def topo_search_restarts(
    key: Key,
    stats: GramStats,
    num_restarts: int,
    config: TopoConfig | None = None,
    *,
    batch_size: int | None = None,
) -> RestartsResult:
    """Searches from many random orders and keeps the best end.

    Args:
      key: a typed random key.
      stats: the moments, from :func:`gram_stats`.
      num_restarts: how many orders to start from, at least 1.
      config: how to search; None means the defaults.
      batch_size: how many searches run side by side; None means all. Fewer need less
        memory, and wait less for the longest of them.

    Returns:
      The best result, and the ends of all searches. Ties go to the first.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if ``num_restarts`` is less than 1, or as in :func:`topo_search`.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> found = dag.topo_search_restarts(jax.random.key(0), stats, 4)
      >>> print(found.best.order)
      [0 1]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023.
    """
    checks.typed_key(key)
    checks.at_least("num_restarts", num_restarts, 1)
    config = config or TopoConfig()
    check_search(stats, None, config.precedence)
    return _restarts(
        key, stats, config, num_restarts=num_restarts, batch_size=batch_size
    )


@jit(static_argnames=("num_restarts", "batch_size"))
def _restarts(
    key: Key,
    stats: GramStats,
    config: TopoConfig,
    *,
    num_restarts: int,
    batch_size: int | None,
) -> RestartsResult:
    d = stats.gram.shape[0]
    sample = lambda key: sample_order(key, d, precedence=config.precedence)
    orders = jax.vmap(sample)(jax.random.split(key, num_restarts))
    search = lambda order: _topo_search(stats, order, config)
    size = num_restarts if batch_size is None else batch_size
    results = jax.lax.map(search, orders, batch_size=size)
    best = jnp.argmin(jnp.where(jnp.isnan(results.loss), jnp.inf, results.loss))
    pick = lambda leaf: leaf[best]
    return RestartsResult(jax.tree.map(pick, results), results.order, results.loss)
