"""Search over topological orders by insertions and swaps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._initial_orders import as_precedence, sample_order
from jaxkit.dag._order import as_order, to_nodes, weights_in_place
from jaxkit.dag._stats import GramStats, check_type, checked_stats
from jaxkit.dag._topo_step import (
    TopoConfig,
    TopoState,
    precedence_of,
    start_at,
    step_from,
)
from jaxkit.dag._validate import is_traced, validate_order, warn_if_scaled
from jaxkit.typing import ArrayLike, Key

__all__ = [
    "RestartsResult",
    "TopoResult",
    "check_search",
    "iterate",
    "topo_search",
    "topo_search_restarts",
]


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


@jit()
def _topo_search(stats: GramStats, order: ArrayLike, config: TopoConfig) -> TopoResult:
    stats = checked_stats(stats)
    order = as_order(order, stats.gram.shape[0])
    precedence = precedence_of(config, order.shape[0])
    advance = lambda carry: (step_from(stats, carry[0], config, precedence), carry[1])
    return iterate(start_at(stats, order), advance, config.max_steps)


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
    of moves that do not interfere, and factors the new order or, on a CPU from 128 nodes
    on, carries the factors over by reflections. The loss strictly decreases, and
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
    warn_if_scaled(stats.gram, stacklevel=4)


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
