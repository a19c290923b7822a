"""Search over orders, and pruning, with regressions on features."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._basis import (
    VARIANCES,
    BasisStats,
    checked_basis,
    node_costs,
    prefix_variances,
)
from jaxkit.dag._order import as_order
from jaxkit.dag._sweep import (
    insertion_costs,
    starting_orders,
    sweep_search,
)
from jaxkit.typing import ArrayLike, Key

__all__ = ["BasisResult", "basis_order_search", "basis_prune"]

HIGHEST = jax.lax.Precision.HIGHEST


class BasisResult(NamedTuple):
    """What :func:`basis_order_search` found.

    Attributes:
      order: the best order, int32, shape ``[d]``.
      loss: :func:`basis_order_loss`, a scalar.
      num_sweeps: how many sweeps over all nodes the best search made, int32.
      converged: whether the best search ended because no node gains by moving, bool.
      losses: the loss at the end of every search, shape ``[num_restarts]``.
    """

    order: jax.Array
    loss: jax.Array
    num_sweeps: jax.Array
    converged: jax.Array
    losses: jax.Array


@jit(static_argnames=("variance", "num_restarts", "max_sweeps"))
def basis_order_search(
    key: Key,
    stats: BasisStats,
    *,
    order: ArrayLike | None = None,
    variance: str = "nv",
    num_restarts: int = 8,
    max_sweeps: int = 100,
) -> BasisResult:
    r"""Searches orders with additive regressions on features.

    One node after the other is moved to its best place. Two Cholesky factors, one with
    the node behind all others and one with it before them, give the exact loss of all
    ``d`` places: what is left of a node depends only on which nodes stand before it.
    It ends when no node gains by moving. Nothing is trained.

    Args:
      key: a typed random key, for the starts.
      stats: the moments, from :func:`basis_stats`.
      order: where the first search starts, integers, shape ``[d]``; None means at
        random like the others. One that is no permutation gives NaN.
      variance: ``"nv"`` or ``"ev"``, see :func:`basis_order_loss`; static.
      num_restarts: how many searches, at least 1; static.
      max_sweeps: the most sweeps over all nodes, at least 1; static.

    Returns:
      The best of the searches; ties go to the first. :func:`basis_prune` makes a graph
      of its order.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if a shape does not fit, ``variance`` is unknown or a number too small.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = dag.sample_nonlinear_sem(jax.random.key(0), jnp.eye(3, k=1), 500)
      >>> found = dag.basis_order_search(
      ...     jax.random.key(1), dag.basis_stats(x), num_restarts=2
      ... )
      >>> print(found.order)
      [0 1 2]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, for
      the search over orders of non-linear models; features and sweeps are ours.
    """
    stats = checked_basis(stats)
    checks.one_of("variance", variance, VARIANCES)
    checks.at_least("max_sweeps", max_sweeps, 1)
    d = stats.cross.shape[1]
    places = jnp.arange(d, dtype=jnp.int32)

    def costs(rest: jax.Array, node: jax.Array) -> jax.Array:
        behind = jnp.concatenate([rest, node[None]])
        before = jnp.concatenate([node[None], rest])
        left = jax.vmap(lambda order: prefix_variances(stats, order))
        last, first = node_costs(left(jnp.stack([behind, before])), variance)
        others = places[:-1]
        return insertion_costs(
            last[others, rest], first[others + 1, rest], last[:d, node]
        )

    floor = 1.0 if variance == "nv" else 0.0
    search = lambda order: sweep_search(
        order, costs, max_sweeps=max_sweeps, floor=floor
    )
    ends = jax.vmap(search)(starting_orders(key, d, num_restarts, order))
    best = jnp.argmin(jnp.where(jnp.isnan(ends.cost), jnp.inf, ends.cost))
    return BasisResult(
        order=ends.order[best],
        loss=ends.cost[best],
        num_sweeps=ends.num_sweeps[best],
        converged=ends.converged[best],
        losses=ends.cost,
    )


class _Fit(NamedTuple):
    """The regression of a node, ready to lose parents."""

    inverse: jax.Array
    weights: jax.Array
    left: jax.Array
    alive: jax.Array
    going: jax.Array


def _p_values(stats: BasisStats, fit: _Fit, extra: jax.Array) -> jax.Array:
    """How easily each parent could have gained this much by chance."""
    used = jnp.sum(jnp.where(fit.alive, stats.ranks, 0.0))
    free = stats.num_samples - 1.0 - used
    sound = (free > 0) & (stats.ranks > 0)
    # The share that the F distribution with (ranks, free) degrees exceeds.
    share = fit.left / (fit.left + extra)
    p = betainc(
        0.5 * jnp.where(sound, free, 1.0),
        0.5 * jnp.where(sound, stats.ranks, 1.0),
        jnp.clip(share, 0.0, 1.0),
    )
    # Without degrees of freedom the least useful parent goes first.
    return jnp.where(sound, p, 1.0 + share)


def _lose(stats: BasisStats, fit: _Fit, significance: jax.Array) -> _Fit:
    d = fit.alive.shape[0]
    size = fit.weights.shape[0] // d
    blocks = fit.inverse.reshape(d, size, d, size)
    own = jnp.moveaxis(jnp.diagonal(blocks, axis1=0, axis2=2), -1, 0)
    eye = jnp.eye(size, dtype=own.dtype)
    own = jnp.where(fit.alive[:, None, None], own, eye[None])
    weights = fit.weights.reshape(d, size)
    solved = jnp.linalg.solve(own, weights[..., None])[..., 0]
    extra = jnp.sum(weights * solved, axis=1)
    p = jnp.where(fit.alive, _p_values(stats, fit, extra), -1.0)
    worst = jnp.argmax(p)
    good = p[worst] > significance
    columns = fit.inverse.reshape(d * size, d, size)[:, worst]
    removed = jnp.linalg.solve(own[worst], columns.T)
    change = jnp.matmul(columns, removed, precision=HIGHEST)
    shift = jnp.matmul(columns, solved[worst], precision=HIGHEST)
    return _Fit(
        inverse=fit.inverse - jnp.where(good, change, 0.0),
        weights=fit.weights - jnp.where(good, shift, 0.0),
        left=fit.left + jnp.where(good, extra[worst], 0.0),
        alive=fit.alive.at[worst].set(fit.alive[worst] & ~good),
        going=good,
    )


@jit()
def basis_prune(
    stats: BasisStats, order: ArrayLike, *, significance: ArrayLike = 1e-3
) -> jax.Array:
    r"""Keeps the parents that an order allows and an F-test supports.

    .. math:: F_k = \frac{(V_{-k} - V) / B_k}{V / (n - 1 - \nu)}

    compares the fit without parent ``k`` to that with it, with :math:`B_k` of the
    :math:`\nu` features. The parent with the largest p-value leaves, and the others are
    tested again, until all are below the level. Each removal is an update of the
    inverse, not a new fit. The ridge counts as part of the residual.

    Args:
      stats: the moments, from :func:`basis_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.
      significance: the level of each test, a scalar.

    Returns:
      The edges, bool, shape ``[d, d]``, entry ``[i, j]`` for ``i -> j``.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = dag.sample_nonlinear_sem(jax.random.key(0), jnp.eye(3, k=1), 500)
      >>> print(dag.basis_prune(dag.basis_stats(x), jnp.arange(3)).astype(int))
      [[0 1 0]
       [0 0 1]
       [0 0 0]]

    References:
      Buehlmann, Peters and Ernest, *CAM: Causal Additive Models, High-Dimensional
      Order Search and Penalized Regression*, Annals of Statistics 2014, section 5.
    """
    stats = checked_basis(stats)
    d = stats.cross.shape[1]
    order = as_order(order, d)
    checks.within("significance", significance, low=0.0, high=1.0)
    (significance,) = checks.floating(significance=significance)
    level = significance.astype(stats.gram.dtype)
    position = jnp.argsort(order)
    total = stats.gram.shape[0]
    eye = jnp.eye(total, dtype=stats.gram.dtype)

    def parents(node: jax.Array) -> jax.Array:
        alive = position < position[node]
        rows = jnp.repeat(alive, total // d)
        gram = jnp.where(rows[:, None] & rows[None, :], stats.gram, eye)
        cross = jnp.where(rows, stats.cross[:, node], 0.0)
        lower = jnp.linalg.cholesky(gram, symmetrize_input=False)
        root = jax.lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)
        inverse = jnp.matmul(root.T, root, precision=HIGHEST)
        weights = jnp.matmul(inverse, cross, precision=HIGHEST)
        left = stats.variances[node] - jnp.sum(cross * weights)
        first = _Fit(inverse, weights, left, alive, jnp.asarray(True))
        lose = lambda fit: _lose(stats, fit, level)
        return jax.lax.while_loop(lambda fit: fit.going, lose, first).alive

    return jax.lax.map(parents, jnp.arange(d, dtype=jnp.int32)).T
