"""Second moments of the data: all that least squares over orders needs."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._validate import check_gram, is_traced
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["GramStats", "checked_stats", "covariance_stats", "gram_stats"]

HIGHEST = jax.lax.Precision.HIGHEST
ROUTES = ("auto", "gram", "factor")

# Above this many variables a float32 Cholesky of a Gram matrix loses the variances.
_FLOAT32_LIMIT = 20


class GramStats(NamedTuple):
    r"""Second moments of a data set, made by :func:`gram_stats`.

    Attributes:
      gram: :math:`G = X_c^\top X_c / n`, shape ``[d, d]``.
      factor: an upper triangular ``R`` with :math:`G = R^\top R`, taken from the data
        without forming ``G``, shape ``[d, d]``; or None. Where it is there, orders are
        factored by a QR decomposition of its columns, which float32 survives.
      mean: what was subtracted from each column, shape ``[d]``.
      num_samples: ``n``, or the sum of the weights; a scalar.
      degrees: ``n - 1`` where a mean was subtracted, else ``n``; a scalar.
    """

    gram: jax.Array
    factor: jax.Array | None
    mean: jax.Array
    num_samples: jax.Array
    degrees: jax.Array


def gram_stats(
    x: ArrayLike,
    *,
    center: bool = True,
    ridge: ArrayLike = 0.0,
    route: str = "auto",
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> GramStats:
    r"""Reduces a data set to its second moments.

    .. math:: G = \frac1n \sum_i (x_i - \bar x)(x_i - \bar x)^\top
        + \rho\, \frac{\operatorname{tr} G}{d} I

    Everything that follows costs the same for any number of samples. The Gram route
    needs float64: its matrix has the square of the condition number of the data. The
    factor route keeps a triangular factor of the data instead and is right in float32.
    Values are not looked at here; :func:`validate_data` does that on the host.

    Args:
      x: the data, one row per sample, shape ``[n, d]`` with ``d >= 2``.
      center: whether to subtract the mean of each column; static.
      ridge: how much of the mean variance to add to the diagonal, not negative.
      route: ``"gram"``, ``"factor"`` or ``"auto"``, which takes the Gram matrix in
        float64 and the factor in lower precision or on a TPU; static.
      weights: how often each sample counts, shape ``[n]``; counts of a bootstrap, for
        instance. None means once.
      where: which samples count, bool, shape ``[n]``; the others may hold NaN.

    Returns:
      The moments, at least float32.

    Raises:
      TypeError: if ``x`` is not floating or ``where`` not bool.
      ValueError: if a shape does not fit, ``route`` is unknown, or ``n <= d`` without a
        ridge.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = jnp.array([[1.0, 2.0], [-1.0, 0.0], [0.0, 1.0]])
      >>> print(dag.gram_stats(x, route="gram").gram.round(4))
      [[0.6667 0.6667]
       [0.6667 0.6667]]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      for the problem; the factor route is ours.
    """
    (x,) = checks.floating(x=x)
    checks.one_of("route", route, ROUTES)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"`x` must have shape (n, d) with d >= 2, got {x.shape}.")
    no_ridge = isinstance(ridge, int | float) and ridge == 0
    if no_ridge and x.shape[0] <= x.shape[1]:
        raise ValueError(
            "`x` must have more rows than columns unless `ridge` is positive, got "
            f"shape {x.shape}."
        )
    if isinstance(ridge, int | float):
        checks.within("ridge", ridge, low=0.0)
    dtype = accumulation_dtype(x)
    route = choose_route(route, dtype, x.shape[1])
    x = x.astype(dtype)
    mask = None if where is None else checks.mask("where", where, x.shape[:1])
    if weights is not None:
        (weights,) = checks.floating(weights=weights)
        checks.shape("weights", weights, x.shape[:1])
        weights = weights.astype(dtype)
    return _gram_stats(
        x, None if no_ridge else ridge, weights, mask, center=center, route=route
    )


def choose_route(route: str, dtype: jnp.dtype, num_nodes: int) -> str:
    """Resolves ``"auto"`` and warns of a Gram matrix in single precision."""
    if route == "auto":
        double = dtype == jnp.float64 and jax.default_backend() != "tpu"
        return "gram" if double else "factor"
    if route == "gram" and dtype != jnp.float64 and num_nodes > _FLOAT32_LIMIT:
        warnings.warn(
            f"A Gram matrix of {num_nodes} variables in {jnp.dtype(dtype).name} loses "
            "the residual variances; take `route='factor'` or float64.",
            UserWarning,
            stacklevel=3,
        )
    return route


@jit(static_argnames=("center", "route"))
def _gram_stats(
    x: jax.Array,
    ridge: ArrayLike | None,
    weights: jax.Array | None,
    mask: jax.Array | None,
    *,
    center: bool,
    route: str,
) -> GramStats:
    share, count = _shares(x, weights, mask)
    x = x if mask is None else masked_fill(x, mask[:, None])
    mean = jnp.zeros_like(x[0])
    if center:
        mean = jnp.matmul(share, x, precision=HIGHEST)
        x = x - mean[None, :]
        x = x if mask is None else masked_fill(x, mask[:, None])
    degrees = count - 1.0 if center else count
    if route == "gram":
        gram = jnp.matmul((x * share[:, None]).T, x, precision=HIGHEST)
        gram = _add_ridge(0.5 * (gram + gram.T), ridge)
        return GramStats(gram, None, mean, count, degrees)
    kept = share > 0
    root = masked_fill(jnp.sqrt(masked_fill(share, kept, fill=1.0)), kept)
    factor = _factor_with_ridge(x * root[:, None], ridge)
    gram = jnp.matmul(factor.T, factor, precision=HIGHEST)
    return GramStats(gram, factor, mean, count, degrees)


def _shares(
    x: jax.Array, weights: jax.Array | None, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The share of each sample in a mean, and the number of samples."""
    weights = jnp.ones_like(x[:, 0]) if weights is None else weights
    weights = masked_fill(weights, mask)
    count = jnp.sum(weights)
    return weights / count, count


def _add_ridge(gram: jax.Array, ridge: ArrayLike | None) -> jax.Array:
    if ridge is None:
        return gram
    level = jnp.asarray(ridge, gram.dtype) * jnp.mean(jnp.diagonal(gram))
    return gram + level * jnp.eye(gram.shape[0], dtype=gram.dtype)


def _factor_with_ridge(rows: jax.Array, ridge: ArrayLike | None) -> jax.Array:
    if ridge is not None:
        d = rows.shape[1]
        level = jnp.asarray(ridge, rows.dtype) * jnp.sum(rows * rows) / d
        eye = jnp.eye(d, dtype=rows.dtype)
        rows = jnp.concatenate([rows, jnp.sqrt(level) * eye])
    return positive_diagonal(jnp.linalg.qr(rows, mode="r"))


def positive_diagonal(upper: jax.Array) -> jax.Array:
    """Flips the signs of rows so that the diagonal is not negative."""
    sign = jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0).astype(upper.dtype)
    return sign[:, None] * upper


def covariance_stats(
    covariance: ArrayLike,
    *,
    num_samples: ArrayLike = float("inf"),
    ridge: ArrayLike = 0.0,
) -> GramStats:
    r"""Wraps a covariance matrix as if it came from data.

    .. math:: G = \Sigma + \rho\, \frac{\operatorname{tr} \Sigma}{d} I

    Only the matrix route: what float32 lost in forming the matrix cannot be regained,
    and more than 20 variables below float64 raise a warning. Symmetry and definiteness
    are checked where the values are known, up to the rounding of their dtype; NaN and
    infinities pass on.

    Args:
      covariance: a symmetric positive definite matrix, shape ``[d, d]``, ``d >= 2``.
      num_samples: how many centered samples it stands for, a scalar; infinite for the
        matrix of a population.
      ridge: how much of the mean variance to add to the diagonal, not negative.

    Returns:
      The moments, at least float32, with zero mean and ``num_samples - 1`` degrees of
      freedom.

    Raises:
      TypeError: if ``covariance`` is not floating.
      ValueError: if it is not square or has fewer than two rows; outside of a traced
        program also if it is not symmetric or not positive semidefinite, or ``ridge``
        is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.order_loss(stats, jnp.array([0, 1])))
      1.0

    References:
      Loh and Buehlmann, *High-Dimensional Learning of Linear Causal Networks via
      Inverse Covariance Estimation*, JMLR 2014.
    """
    (covariance,) = checks.floating(covariance=covariance)
    square("covariance", covariance)
    dtype = accumulation_dtype(covariance)
    d = covariance.shape[0]
    if dtype != jnp.float64 and d > _FLOAT32_LIMIT:
        warnings.warn(
            f"A covariance matrix of {d} variables in {jnp.dtype(dtype).name} loses the "
            "residual variances; take float64, or `gram_stats` of the data.",
            UserWarning,
            stacklevel=2,
        )
    _check_known(covariance)
    checks.within("ridge", ridge, low=0.0)
    return _covariance_stats(covariance.astype(dtype), num_samples, ridge)


def _check_known(covariance: jax.Array) -> None:
    if is_traced(covariance):
        return
    wide = np.asarray(covariance).astype(np.float64)
    if np.isfinite(wide).all():
        eps = float(jnp.finfo(covariance.dtype).eps)
        check_gram("covariance", wide, max(1e-8, 10.0 * len(wide) * eps))


@jit()
def _covariance_stats(
    covariance: jax.Array, num_samples: ArrayLike, ridge: ArrayLike
) -> GramStats:
    dtype = covariance.dtype
    gram = _add_ridge(covariance, ridge)
    count = jnp.asarray(num_samples).astype(dtype)
    mean = jnp.zeros(gram.shape[0], dtype)
    return GramStats(gram, None, mean, count, count - 1.0)


def square(name: str, matrix: jax.Array) -> None:
    """Raises unless `matrix` has shape ``(d, d)`` with ``d >= 2``."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise ValueError(
            f"`{name}` must have shape (d, d) with d >= 2, got {matrix.shape}."
        )


def checked_stats(stats: GramStats) -> GramStats:
    """Checks the shapes of moments and brings them to one dtype."""
    check_type(stats)
    (gram,) = checks.floating(**{"stats.gram": stats.gram})
    square("stats.gram", gram)
    dtype = accumulation_dtype(gram)
    cast = lambda value: jnp.asarray(value).astype(dtype)
    gram = cast(gram)
    return GramStats(
        # Factorizations read one triangle: their derivatives should see both.
        0.5 * (gram + gram.T),
        None if stats.factor is None else cast(stats.factor),
        cast(stats.mean),
        cast(stats.num_samples),
        cast(stats.degrees),
    )


def check_type(stats: GramStats) -> None:
    """Raises unless `stats` are moments."""
    if not isinstance(stats, GramStats):
        raise TypeError(
            f"`stats` must be a GramStats made by gram_stats, got {type(stats).__name__}."
        )
