"""Additive regressions on fixed features of each node, for all orders at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._order import as_order, is_permutation
from jaxkit.typing import ArrayLike

__all__ = [
    "BasisStats",
    "basis_features",
    "basis_order_loss",
    "basis_stats",
    "checked_basis",
    "node_costs",
    "prefix_variances",
]

HIGHEST = jax.lax.Precision.HIGHEST
VARIANCES = ("nv", "ev")

# Directions of the features with singular values below this share are dropped.
_LEAST_SHARE = 1e-3


class BasisStats(NamedTuple):
    r"""Moments of features, made by :func:`basis_stats`; ``B`` features for each node.

    Attributes:
      gram: :math:`\Phi^\top \Phi / n + \lambda I`, shape ``[d B, d B]``, node by node.
      cross: :math:`\Phi^\top x / n`, shape ``[d B, d]``.
      variances: the variance of each column, shape ``[d]``.
      ranks: how many directions the features of each node span, shape ``[d]``.
      num_samples: ``n``, a scalar.
    """

    gram: jax.Array
    cross: jax.Array
    variances: jax.Array
    ranks: jax.Array
    num_samples: jax.Array


def _checked_data(x: ArrayLike, num_features: int) -> jax.Array:
    (x,) = checks.floating(x=x)
    if x.ndim != 2 or x.shape[1] < 2 or x.shape[0] < 2:
        raise ValueError(
            f"`x` must have shape (n, d) with n >= 2 and d >= 2, got {x.shape}."
        )
    checks.at_least("num_features", num_features, 1)
    return x.astype(accumulation_dtype(x))


def _column_features(column: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Orthonormal features of one column, and the number of directions they span."""
    centered = column - jnp.mean(column)
    spread = jnp.sqrt(jnp.mean(centered**2))
    z = centered / jnp.where(spread > 0, spread, 1.0)
    knots = jnp.quantile(z, jnp.linspace(0.0, 1.0, num + 1, dtype=z.dtype)[1:-1])
    bumps = jnp.tanh(1.5 * (z[:, None] - knots[None, :]))
    raw = jnp.concatenate([z[:, None], bumps], axis=1)
    raw = raw - jnp.mean(raw, axis=0)[None, :]
    left, sizes, right = jnp.linalg.svd(raw, full_matrices=False)
    kept = (sizes > _LEAST_SHARE * sizes[0]) & (sizes[0] > 0)
    # Of all orthonormal bases the one nearest to the features: it knows no signs.
    left = jnp.where(kept[None, :], left, 0.0)
    features = jnp.matmul(left, right, precision=HIGHEST)
    root = jnp.sqrt(jnp.asarray(column.shape[0]).astype(z.dtype))
    return features * root, jnp.sum(kept).astype(z.dtype)


@jit(static_argnames=("num_features",))
def basis_features(x: ArrayLike, *, num_features: int = 6) -> jax.Array:
    r"""Maps every column to orthonormal features of itself.

    .. math:: \bigl(z,\; \tanh \tfrac32 (z - q_1),\; \dots,\;
        \tanh \tfrac32 (z - q_{B-1})\bigr)

    of the standardized column :math:`z` with its quantiles :math:`q_i` at
    :math:`i / B`, centered, and then replaced by the nearest matrix with
    :math:`\Phi^\top \Phi = n I`. Directions with a singular value below a thousandth of
    the largest are dropped first, so that a column of two values, say, has only one.
    Scaling or shifting a column changes nothing.

    Args:
      x: the data, one row per sample, shape ``[n, d]``.
      num_features: the number ``B`` of features of a column; static.

    Returns:
      The features, shape ``[n, d, B]``, at least float32.

    Raises:
      TypeError: if ``x`` is not floating.
      ValueError: if the shape does not fit or ``num_features`` is less than 1.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> dag.basis_features(x).shape
      (100, 3, 6)

    References:
      Buehlmann, Peters and Ernest, *CAM: Causal Additive Models, High-Dimensional
      Order Search and Penalized Regression*, Annals of Statistics 2014, on additive
      models; these features are ours.
    """
    x = _checked_data(x, num_features)
    one = lambda column: _column_features(column, num_features)[0]
    return jax.vmap(one, in_axes=1, out_axes=1)(x)


@jit(static_argnames=("num_features",))
def basis_stats(
    x: ArrayLike, *, num_features: int = 6, ridge: ArrayLike = 1e-3
) -> BasisStats:
    r"""Reduces a data set to the moments of its features.

    .. math:: M = \Phi^\top \Phi / n + \lambda I, \qquad b = \Phi^\top x / n

    All that follows costs the same for any number of samples.

    Args:
      x: the data, one row per sample, shape ``[n, d]``.
      num_features: features of a column, see :func:`basis_features`; static.
      ridge: :math:`\lambda`, positive; the features have unit variance.

    Returns:
      The moments, at least float32.

    Raises:
      TypeError: if ``x`` is not floating.
      ValueError: if the shape does not fit or ``num_features`` is less than 1.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> dag.basis_stats(x).gram.shape
      (18, 18)

    References:
      Buehlmann, Peters and Ernest, *CAM: Causal Additive Models, High-Dimensional
      Order Search and Penalized Regression*, Annals of Statistics 2014.
    """
    x = _checked_data(x, num_features)
    checks.positive(ridge=ridge)
    (ridge,) = checks.floating(ridge=ridge)
    n, d = x.shape
    one = lambda column: _column_features(column, num_features)
    features, ranks = jax.vmap(one, in_axes=1, out_axes=(1, 0))(x)
    flat = features.reshape(n, d * num_features)
    centered = x - jnp.mean(x, axis=0)[None, :]
    times = lambda a, b: jnp.matmul(a.T, b, precision=HIGHEST) / n
    eye = jnp.eye(flat.shape[1], dtype=x.dtype)
    return BasisStats(
        gram=times(flat, flat) + ridge.astype(x.dtype) * eye,
        cross=times(flat, centered),
        variances=jnp.mean(centered**2, axis=0),
        ranks=ranks,
        num_samples=jnp.asarray(n).astype(x.dtype),
    )


def checked_basis(stats: BasisStats) -> BasisStats:
    """Checks the shapes of moments of features and brings them to one dtype."""
    if not isinstance(stats, BasisStats):
        raise TypeError(
            "`stats` must be a BasisStats made by basis_stats, got "
            f"{type(stats).__name__}."
        )
    (cross,) = checks.floating(**{"stats.cross": stats.cross})
    if cross.ndim != 2 or cross.shape[1] < 2 or cross.shape[0] % cross.shape[1]:
        raise ValueError(
            f"`stats.cross` must have shape (d B, d) with d >= 2, got {cross.shape}."
        )
    dtype = accumulation_dtype(cross)
    stats = BasisStats(*(jnp.asarray(leaf).astype(dtype) for leaf in stats))
    checks.shape("stats.gram", stats.gram, (cross.shape[0], cross.shape[0]))
    return stats


def prefix_variances(stats: BasisStats, order: jax.Array) -> jax.Array:
    """Entry ``[q, j]``: what the first q nodes of an order leave of node j."""
    d = order.shape[0]
    size = stats.cross.shape[0] // d
    rows = order[:, None] * size + jnp.arange(size, dtype=jnp.int32)[None, :]
    rows = rows.ravel()
    gram = stats.gram[rows[:, None], rows[None, :]]
    lower = jnp.linalg.cholesky(gram, symmetrize_input=False)
    half = jax.lax.linalg.triangular_solve(
        lower, stats.cross[rows], left_side=True, lower=True
    )
    gains = jnp.sum((half * half).reshape(d, size, d), axis=1)
    none = jnp.zeros_like(gains[:1])
    explained = jnp.concatenate([none, jnp.cumsum(gains, axis=0)])
    used = jnp.concatenate([none[0, :1], jnp.cumsum(stats.ranks[order])])
    n = stats.num_samples
    # With more features than samples nothing is known about what is left.
    scale = jnp.where(used < n, n / jnp.where(used < n, n - used, 1.0), jnp.inf)
    return (stats.variances[None, :] - explained) * scale[:, None]


def node_costs(variances: jax.Array, variance: str) -> jax.Array:
    """The cost of a node from the variance left to it."""
    return 0.5 * (jnp.log(variances) if variance == "nv" else variances)


@jit(static_argnames=("variance",))
def basis_order_loss(
    stats: BasisStats, order: ArrayLike, *, variance: str = "nv"
) -> jax.Array:
    r"""The loss of an order under additive regressions on features.

    .. math:: \tfrac12 \sum_m \log V_m \;\;(\text{nv}) \qquad\text{or}\qquad
        \tfrac12 \sum_m V_m \;\;(\text{ev})

    .. math:: V_m = \frac{n}{n - \nu_m} \min_w \Bigl[ \tfrac1n
        \|x_{o_m} - \Phi_{<m} w\|^2 + \lambda \|w\|^2 \Bigr]

    with the features of all earlier nodes and their number :math:`\nu_m`. One Cholesky
    factor gives all terms. ``"nv"`` lets every node have a noise variance of its own;
    scaling columns adds a constant to it. With linear regressions it would be blind, see
    :func:`golem_nv_loss`; non-linear ones make it informative.

    Args:
      stats: the moments, from :func:`basis_stats`.
      order: the nodes, parents first, integers, shape ``[d]``.
      variance: ``"nv"`` or ``"ev"``, noise of unequal or of equal variances; static.

    Returns:
      The loss, a scalar; infinite where there are more features than samples, NaN if the
      order is no permutation.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit or ``variance`` is unknown.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (500, 1))
      >>> noise = jax.random.normal(jax.random.key(1), (500, 1))
      >>> stats = dag.basis_stats(jnp.concatenate([x, x**2 + noise], axis=1))
      >>> forward = dag.basis_order_loss(stats, jnp.array([0, 1]))
      >>> backward = dag.basis_order_loss(stats, jnp.array([1, 0]))
      >>> print(forward < backward)
      True

    References:
      Buehlmann, Peters and Ernest, *CAM: Causal Additive Models, High-Dimensional
      Order Search and Penalized Regression*, Annals of Statistics 2014, section 2.
    """
    stats = checked_basis(stats)
    checks.one_of("variance", variance, VARIANCES)
    order = as_order(order, stats.cross.shape[1])
    left = prefix_variances(stats, order)
    own = left[jnp.arange(order.shape[0]), order]
    loss = jnp.sum(node_costs(own, variance))
    return jnp.where(is_permutation(order), loss, jnp.nan)
