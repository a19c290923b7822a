"""What every move of one order would change, from one factor."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike

__all__ = ["adjacent_swap_deltas", "insertion_deltas", "swap_deltas"]

# Columns swept together by the table of swaps, so that its carry stays in the cache.
_TILE = 64


def _checked(lower: ArrayLike, inverse: ArrayLike) -> tuple[jax.Array, jax.Array]:
    lower, inverse = checks.floating(lower=lower, inverse=inverse)
    square("lower", lower)
    checks.same_shape(lower=lower, inverse=inverse)
    dtype = accumulation_dtype(lower, inverse)
    return lower.astype(dtype), inverse.astype(dtype)


def _below(d: int) -> jax.Array:
    return jnp.tril(jnp.ones((d, d), bool), -1)


def _running_sums(rows: jax.Array, *, reverse: bool = False) -> jax.Array:
    """Sums of rows up to each row: one pass on a CPU, a parallel scan elsewhere."""

    def one_pass(rows: jax.Array) -> jax.Array:
        add = lambda total, row: (total + row, total + row)
        return jax.lax.scan(add, jnp.zeros_like(rows[0]), rows, reverse=reverse)[1]

    parallel = lambda rows: jax.lax.cumsum(rows, axis=0, reverse=reverse)
    return jax.lax.platform_dependent(rows, cpu=one_pass, default=parallel)


def _suffix_sums(squares: jax.Array) -> jax.Array:
    return _running_sums(squares.T, reverse=True).T


@jit()
def insertion_deltas(lower: ArrayLike, inverse: ArrayLike) -> jax.Array:
    r"""The change of the sum of residual variances by every insertion.

    .. math:: D_{pq} = \sum_{m=q}^{p-1} C_{pm}^2 \Bigl(1 - \frac{c_m^2}{t_{pm}}\Bigr)
        \quad (q < p), \qquad t_{pm} = \sum_{l=m}^{p} C_{pl}^2

    .. math:: D_{pq} = \sum_{m=p+1}^{q} \frac{K_{mp}^2}{s_{mp}}
        \Bigl(c_m^2 - \frac{1}{s_{m+1,p}}\Bigr) \quad (q > p), \qquad
        s_{mp} = \sum_{l=p}^{m-1} K_{lp}^2

    The node at position ``p`` is taken out and put back at ``q``; those between move
    up. Two cumulative sums per direction give all of them, exactly.

    Args:
      lower: ``C`` of :func:`order_cholesky`, shape ``[d, d]``.
      inverse: ``K``, its inverse, of the same shape.

    Returns:
      The table over positions, shape ``[d, d]``, 0 on the diagonal: twice the change
      of :func:`order_loss`. At least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> table = dag.insertion_deltas(*dag.order_cholesky(stats, jnp.array([0, 1])))
      >>> print(f"{table[0, 1]:.4f} {table[1, 0]:.4f}")
      3.2000 3.2000

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, for
      the search; the closed form is ours.
    """
    lower, inverse = _checked(lower, inverse)
    below = _below(lower.shape[0])
    variance = jnp.diagonal(lower) ** 2
    squares = jnp.where(below, lower**2, 0.0)
    # No total is subtracted from another: each term is a small difference of its own.
    kept = jnp.where(below, _suffix_sums(squares) + variance[:, None], 1.0)
    earlier = _suffix_sums(squares * (1.0 - variance[None, :] / kept))
    later = _running_sums(_loss_of_parent(inverse, variance, below))
    return jnp.where(below, earlier, 0.0) + jnp.where(below, later, 0.0).T


def _spreads(inverse: jax.Array, below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums ``s[m, p]`` above each row and ``s[m + 1, p]`` including it."""
    squares = jnp.where(below, inverse**2, 0.0)
    # The diagonal first: 1 / c_p^2 is what the others add to.
    first = jnp.diagonal(inverse)[None, :] ** 2
    through = _running_sums(squares) + first
    above = jnp.concatenate([first, through[:-1]])
    return jnp.where(below, above, 1.0), jnp.where(below, through, 1.0)


def _loss_of_parent(
    inverse: jax.Array, variance: jax.Array, below: jax.Array
) -> jax.Array:
    above, through = _spreads(inverse, below)
    step = inverse**2 / above * (variance[:, None] - 1.0 / through)
    return jnp.where(below, step, 0.0)


@jit()
def adjacent_swap_deltas(lower: ArrayLike) -> jax.Array:
    r"""The change of the sum of residual variances by swaps of neighbors.

    .. math:: \Delta_k = b^2 \Bigl(1 - \frac{a^2}{b^2 + c^2}\Bigr), \qquad
        a = C_{kk},\ b = C_{k+1,k},\ c = C_{k+1,k+1}

    A swap pays when :math:`a^2 > b^2 + c^2`: when the later node varies less than the
    earlier one given those before both.

    Args:
      lower: ``C`` of :func:`order_cholesky`, shape ``[d, d]``.

    Returns:
      The changes, shape ``[d - 1]``, at least float32.

    Raises:
      TypeError: if ``lower`` is not floating.
      ValueError: if it is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.adjacent_swap_deltas(jnp.array([[3.0, 0.0], [2.0, 2.0]])))
      [-0.5]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, for
      the search; the closed form is ours.
    """
    lower, _ = _checked(lower, lower)
    variance = jnp.diagonal(lower) ** 2
    squares = jnp.diagonal(lower, -1) ** 2
    return squares * (1.0 - variance[:-1] / (squares + variance[1:]))


@jit()
def swap_deltas(lower: ArrayLike, inverse: ArrayLike) -> jax.Array:
    r"""The change of the sum of residual variances by every exchange of two nodes.

    .. math:: D_{pq} = \sum_{m=p+1}^{q-1} \Bigl(v_m - \frac{k_m^2}{u_m} - c_m^2\Bigr)
        + t_{qp} + \frac{1}{s_{q+1,p}} - c_p^2 - c_q^2

    with :math:`v_m, u_m, k_m` the variances and the covariance of the nodes at ``m`` and
    ``q`` given those before ``m`` but for the one at ``p``. One sweep over ``m`` gives
    all pairs in ``O(d^3)``; the insertions of :func:`insertion_deltas` cost less and
    find better orders. Not differentiable in reverse mode.

    Args:
      lower: ``C`` of :func:`order_cholesky`, shape ``[d, d]``.
      inverse: ``K``, its inverse, of the same shape.

    Returns:
      The table over positions, symmetric, shape ``[d, d]``, 0 on the diagonal: twice
      the change of :func:`order_loss`. At least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> table = dag.swap_deltas(*dag.order_cholesky(stats, jnp.array([0, 1])))
      >>> print(f"{table[0, 1]:.4f}")
      3.2000

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      section 4, for the move; the closed form is ours.
    """
    lower, inverse = _checked(lower, inverse)
    d = lower.shape[0]
    below = _below(d)
    variance = jnp.diagonal(lower) ** 2
    kept = _suffix_sums(jnp.where(below, lower**2, 0.0)) + variance[:, None]
    above, through = _spreads(inverse, below)
    # What the nodes between lose with p, by itself: a sum over m < q.
    widened = jnp.where(below, inverse**2 / above * variance[:, None], 0.0)
    between = _running_sums(widened) - widened
    regained = _regained(lower, inverse, kept, above)
    ends = kept + 1.0 / through - variance[None, :] - variance[:, None]
    table = jnp.where(below, between - regained + ends, 0.0)
    return table + table.T


def _regained(
    lower: jax.Array, inverse: jax.Array, kept: jax.Array, above: jax.Array
) -> jax.Array:
    """What the nodes between gain from `q`: the sum of ``k_m^2 / u_m``, rows ``q``."""
    d = lower.shape[0]
    tile = min(_TILE, d)
    padding = -d % tile
    cut = lambda x: jnp.moveaxis(
        jnp.pad(x, ((0, 0), (0, padding)), constant_values=1.0).reshape(d, -1, tile),
        1,
        0,
    )
    position = jnp.arange(d + padding, dtype=jnp.int32).reshape(-1, tile)
    nodes = jnp.arange(d, dtype=jnp.int32)

    columns_of_lower, columns_of_kept = lower.T, kept.T

    def sweep(inputs: tuple[jax.Array, ...]) -> jax.Array:
        inverse_tile, above_tile, columns = inputs

        def step(m: jax.Array, state: tuple) -> tuple:
            slope, total = state
            c, t = columns_of_lower[m], columns_of_kept[m]
            k, s = inverse_tile[m], above_tile[m]
            covariance = c[m] * (c[:, None] - slope * (k / s)[None, :])
            spread = t[:, None] + slope**2 / s[None, :]
            inside = (columns < m)[None, :] & (nodes > m)[:, None]
            share = covariance**2 / jnp.where(inside, spread, 1.0)
            total = total + jnp.where(inside, share, 0.0)
            started = jnp.where(columns <= m, k, 0.0)
            return slope + c[:, None] * started[None, :], total

        zero = jnp.zeros((d, tile), lower.dtype)
        # Before the first column of the tile there is nothing to sweep.
        return jax.lax.fori_loop(columns[0], d, step, (zero, zero))[1]

    total = jax.lax.map(sweep, (cut(inverse), cut(above), position))
    return jnp.moveaxis(total, 0, 1).reshape(d, -1)[:, :d]
