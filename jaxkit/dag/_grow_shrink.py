"""Selection of the parents of a node by the Bayesian information criterion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._regression import as_mask, as_node, parent_limit
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.typing import ArrayLike

__all__ = ["ParentSet", "find_parents", "grow_shrink"]

HIGHEST = jax.lax.Precision.HIGHEST


class ParentSet(NamedTuple):
    """What :func:`grow_shrink` found.

    Attributes:
      parents: the nodes selected, bool, shape ``[d]``.
      score: the entry of :func:`bic_score` for the node, a scalar; higher is better.
    """

    parents: jax.Array
    score: jax.Array


def _score(
    variance: jax.Array, size: jax.Array, count: jax.Array, penalty: jax.Array
) -> jax.Array:
    terms = (size + 1).astype(variance.dtype)
    fit = 0.5 * count * (1.0 + jnp.log(variance))
    return -fit - penalty * terms * jnp.log(count)


class _Growing(NamedTuple):
    """A set of parents under construction, and what it leaves of the moments."""

    rows: jax.Array
    variance: jax.Array
    cross: jax.Array
    left: jax.Array
    chosen: jax.Array
    free: jax.Array
    size: jax.Array
    going: jax.Array


def _add(
    state: _Growing,
    gram: jax.Array,
    node: jax.Array,
    count: jax.Array,
    price: jax.Array,
) -> _Growing:
    """Adds the parent that gains most, if any pays its price."""
    limit, eps = state.chosen.shape[0], jnp.finfo(gram.dtype).eps
    sound = state.free & (state.variance > 10.0 * eps * jnp.diagonal(gram))
    spread = jnp.where(sound, state.variance, 1.0)
    share = jnp.where(sound, state.cross**2 / (spread * state.left), 0.0)
    gain = -0.5 * count * jnp.log1p(-jnp.minimum(share, 1.0 - eps)) - price
    best = jnp.argmax(jnp.where(sound, gain, -jnp.inf)).astype(jnp.int32)
    good = sound[best] & (gain[best] > 0)
    # Rows of the factor not yet found are zero and take no part.
    past = jnp.matmul(state.rows[:, best], state.rows, precision=HIGHEST)
    row = (gram[best] - past) / jnp.sqrt(spread[best])
    row = jnp.where(good, row, 0.0)
    size = state.size + good.astype(jnp.int32)
    slot = jnp.where(good, state.size, limit)
    return _Growing(
        rows=state.rows.at[slot].set(row, mode="drop"),
        variance=state.variance - row * row,
        cross=state.cross - row * row[node],
        left=state.left - row[node] ** 2,
        chosen=state.chosen.at[slot].set(best, mode="drop"),
        free=state.free.at[best].set(state.free[best] & ~good),
        size=size,
        going=good & (size < limit),
    )


class _Shrinking(NamedTuple):
    """Parents at hand, the inverse of their moments, their weights."""

    inverse: jax.Array
    weights: jax.Array
    left: jax.Array
    alive: jax.Array
    going: jax.Array


def _drop(state: _Shrinking, count: jax.Array, price: jax.Array) -> _Shrinking:
    """Removes the parent that costs least, if less than its price."""
    pivot = jnp.where(state.alive, jnp.diagonal(state.inverse), 1.0)
    extra = state.weights**2 / pivot
    loss = 0.5 * count * jnp.log1p(extra / state.left) - price
    worst = jnp.argmin(jnp.where(state.alive, loss, jnp.inf))
    good = state.alive[worst] & (loss[worst] < 0)
    column = jnp.where(good, state.inverse[:, worst] / pivot[worst], 0.0)
    row = state.inverse[worst]
    return _Shrinking(
        inverse=state.inverse - column[:, None] * row[None, :],
        weights=state.weights - column * state.weights[worst],
        left=state.left + jnp.where(good, extra[worst], 0.0),
        alive=state.alive.at[worst].set(state.alive[worst] & ~good),
        going=good,
    )


def find_parents(
    stats: GramStats,
    node: jax.Array,
    candidates: jax.Array,
    penalty: jax.Array,
    limit: int,
) -> ParentSet:
    """Grows and shrinks a set of parents on checked arguments."""
    gram, count = stats.gram, stats.num_samples
    price = penalty * jnp.log(count)
    d = gram.shape[0]
    nothing = jnp.asarray(0, jnp.int32)
    start = _Growing(
        rows=jnp.zeros((limit, d), gram.dtype),
        variance=jnp.diagonal(gram),
        cross=gram[node],
        left=gram[node, node],
        chosen=jnp.zeros(limit, jnp.int32),
        free=candidates & (jnp.arange(d, dtype=jnp.int32) != node),
        size=nothing,
        going=jnp.asarray(True),
    )
    grown = jax.lax.while_loop(
        lambda state: state.going,
        lambda state: _add(state, gram, node, count, price),
        start,
    )
    # The rows at the parents are the Cholesky factor of their moments.
    alive = jnp.arange(limit, dtype=jnp.int32) < grown.size
    eye = jnp.eye(limit, dtype=gram.dtype)
    both = alive[:, None] & alive[None, :]
    upper = jnp.where(both, jnp.triu(grown.rows[:, grown.chosen]), eye)
    root = jax.lax.linalg.triangular_solve(upper, eye, left_side=True, lower=False)
    first = _Shrinking(
        inverse=jnp.matmul(root, root.T, precision=HIGHEST),
        weights=jnp.matmul(root, grown.rows[:, node], precision=HIGHEST),
        left=grown.left,
        alive=alive,
        going=jnp.asarray(True),
    )
    kept = jax.lax.while_loop(
        lambda state: state.going, lambda state: _drop(state, count, price), first
    )
    slots = jnp.where(kept.alive, grown.chosen, d)
    parents = jnp.zeros(d, bool).at[slots].set(True, mode="drop")
    size = jnp.sum(kept.alive, dtype=jnp.int32)
    return ParentSet(parents, _score(kept.left, size, count, penalty))


@jit(static_argnames=("max_parents",))
def grow_shrink(
    stats: GramStats,
    node: ArrayLike,
    candidates: ArrayLike,
    *,
    penalty: ArrayLike = 2.0,
    max_parents: int | None = 12,
) -> ParentSet:
    r"""Selects the parents of a node among candidates.

    Grow: the candidate with the largest gain joins, as long as one gains,

    .. math:: \frac n2 \log \frac{v}{v - c_p^2 / v_p} - \lambda \log n > 0,

    with the variances :math:`v` of the node and :math:`v_p` of the candidate and their
    covariance :math:`c_p`, all given the parents so far. Shrink: the parent whose loss
    costs least leaves, as long as that gains. Ties go to the lowest index.

    It works on the Gram matrix; in float32 a variance below about 1e-6 of that of the
    whole column is rounding.

    Args:
      stats: the moments, from :func:`gram_stats`, of finitely many samples.
      node: the index of the node, an integer scalar.
      candidates: weights or marks, not zero at the candidates, shape ``[d]``; the node
        itself is ignored.
      penalty: :math:`\lambda` of :func:`bic_score`.
      max_parents: the most parents ever held at once; static. None means ``d - 1``.

    Returns:
      The parents and the score.

    Raises:
      TypeError: if ``node`` is not an integer.
      ValueError: if a shape does not fit, ``node`` is out of range or ``max_parents``
        less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0, -2.0], [2.0, 5.0, -5.0], [-2.0, -5.0, 6.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=100)
      >>> print(dag.grow_shrink(stats, 2, jnp.ones(3)).parents)
      [False  True False]

    References:
      Margaritis and Thrun, *Bayesian Network Induction via Local Neighborhoods*,
      NeurIPS 1999; Andrews et al., *Fast Scalable and Accurate Discovery of DAGs Using
      the Best Order Score Search and Grow-Shrink Trees*, NeurIPS 2023.
    """
    stats = checked_stats(stats)
    d = stats.gram.shape[0]
    node = as_node(node, d)
    mask = as_mask("candidates", candidates, d)
    (penalty,) = checks.floating(penalty=penalty)
    limit = parent_limit(max_parents, d)
    return find_parents(stats, node, mask, penalty.astype(stats.gram.dtype), limit)
