"""Lloyd's algorithm from a spread-out start."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill, masked_sum, squared_distances
from jaxkit.typing import ArrayLike, Key

__all__ = ["KMeansResult", "checked_rows", "fit_kmeans", "kmeans"]


class KMeansResult(NamedTuple):
    """Clusters and how the search for them ended.

    Attributes:
      centers: the mean of each cluster, shape ``[num_clusters, dim]``.
      assignment: the nearest center of each row, int32, shape ``[N]``.
      inertia: the sum of the squared distances of the rows that count to their
        centers, a scalar.
      num_steps: the rounds taken, int32.
      converged: whether the last round moved no row to another cluster.
    """

    centers: jax.Array
    assignment: jax.Array
    inertia: jax.Array
    num_steps: jax.Array
    converged: jax.Array


@jit(static_argnames=("num_clusters", "max_steps"))
def kmeans(
    key: Key,
    features: ArrayLike,
    *,
    num_clusters: int,
    max_steps: int = 100,
    where: ArrayLike | None = None,
) -> KMeansResult:
    r"""Clusters rows by Lloyd's algorithm.

    .. math:: \min_{c} \sum_{i} \min_j \|x_i - c_j\|^2

    The start draws each further center with a probability proportional to the squared
    distance from those before (k-means++). The result is a local minimum: compare the
    inertia of several keys, for instance under :func:`jax.vmap`. An empty cluster
    keeps its center. The ``[N, num_clusters]`` distances are held at once. The loop
    ends by a tolerance, so there is no reverse-mode derivative.

    Args:
      key: a typed random key.
      features: the rows, shape ``[N, ...]``; trailing axes are flattened.
      num_clusters: the number of centers, at most ``N``; static.
      max_steps: the most rounds; static.
      where: which rows count, bool, shape ``[N]``; the others may hold NaN.

    Returns:
      The clusters, in the dtype of ``features``, at least float32.

    Raises:
      TypeError: if ``key`` is not a typed key or ``features`` not real.
      ValueError: if ``num_clusters`` does not lie in ``1, ..., N``, ``max_steps`` is
        less than 1 or a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x = jnp.array([0.0, 2.0, 10.0, 12.0])[:, None]
      >>> result = distillation.kmeans(jax.random.key(0), x, num_clusters=2)
      >>> print(jnp.sort(result.centers[:, 0]), result.inertia, result.converged)
      [ 1. 11.] 4.0 True

    References:
      Lloyd, *Least squares quantization in PCM*, IEEE Transactions on Information
      Theory 1982. Arthur and Vassilvitskii, *k-means++: The Advantages of Careful
      Seeding*, SODA 2007.
    """
    checks.typed_key(key)
    checks.at_least("max_steps", max_steps, 1)
    points, mask = checked_rows(features, where, num_clusters=num_clusters)
    return fit_kmeans(key, points, mask, num_clusters, max_steps)


def checked_rows(
    features: ArrayLike, where: ArrayLike | None, **count: int
) -> tuple[jax.Array, jax.Array]:
    """Flattens rows to `[N, dim]`, 0 where they do not count, and checks a count."""
    (points,) = checks.floating(features=features)
    checks.min_ndim("features", points, 1)
    size = points.shape[0]
    for name, value in count.items():
        checks.at_least(name, value, 1)
        if value > size:
            raise ValueError(
                f"`{name}` must be at most {size}, the rows of `features`, got {value}."
            )
    mask = checks.mask("where", where, (size,))
    points = points.reshape(size, -1).astype(accumulation_dtype(points))
    return masked_fill(points, mask[:, None]), mask


def fit_kmeans(
    key: Key, points: jax.Array, mask: jax.Array, num_clusters: int, max_steps: int
) -> KMeansResult:
    """Clusters checked rows of shape `[N, dim]`, 0 where the mask is False."""
    weights = mask.astype(points.dtype)
    nothing = jnp.full(points.shape[0], -1, jnp.int32)
    start = _spread_out(key, points, weights, num_clusters)
    state = (start, nothing, jnp.asarray(0, jnp.int32), jnp.asarray(False))

    def going(state: tuple) -> jax.Array:
        _, _, step, converged = state
        return ~converged & (step < max_steps)

    def round_(state: tuple) -> tuple:
        centers, before, step, _ = state
        assignment = _nearest(points, centers)
        same = jnp.all((assignment == before) | ~mask)
        centers = _means(points, weights, assignment, centers)
        return centers, assignment, step + 1, same

    centers, _, steps, converged = jax.lax.while_loop(going, round_, state)
    distances = squared_distances(points, centers)
    inertia = masked_sum(jnp.min(distances, axis=1), where=mask)
    return KMeansResult(centers, _nearest(points, centers), inertia, steps, converged)


def _nearest(points: jax.Array, centers: jax.Array) -> jax.Array:
    return jnp.argmin(squared_distances(points, centers), axis=1).astype(jnp.int32)


def _means(
    points: jax.Array, weights: jax.Array, assignment: jax.Array, centers: jax.Array
) -> jax.Array:
    total = lambda x: jax.ops.segment_sum(x, assignment, centers.shape[0])
    count = total(weights)[:, None]
    mean = total(weights[:, None] * points) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, mean, centers)


def _spread_out(
    key: Key, points: jax.Array, weights: jax.Array, num_clusters: int
) -> jax.Array:
    def draw(nearest: jax.Array, level: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Uniform at first, and again when every row already is a center.
        fresh = jnp.any(nearest < 0.0)
        even = fresh | ~jnp.any(weights * nearest > 0.0)
        chance = jnp.cumsum(jnp.where(even, weights, weights * nearest))
        index = jnp.argmax(chance > level * chance[-1])
        distance = jnp.sum((points - points[index][None]) ** 2, axis=-1)
        nearest = jnp.where(fresh, distance, jnp.minimum(nearest, distance))
        return nearest, points[index]

    # Below 1 by more than rounding: the sum of all chances must exceed the level.
    levels = jax.random.uniform(key, (num_clusters,), points.dtype, maxval=1 - 1e-6)
    return jax.lax.scan(draw, jnp.full_like(weights, -1.0), levels)[1]
