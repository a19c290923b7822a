"""Subsets of real examples: the starts of distillation and its baselines."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.distillation._kmeans import checked_rows, fit_kmeans
from jaxkit.ops import masked_mean, squared_distances
from jaxkit.typing import ArrayLike, Key

__all__ = ["kcenter_greedy", "kmeans_subset", "random_subset"]


@jit(static_argnames=("num_points",))
def random_subset(
    key: Key,
    features: ArrayLike,
    *,
    num_points: int,
    labels: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Draws rows without replacement, on request equally many of each class.

    .. math:: S \sim \mathrm{Uniform}\{S \subset \{0, \dots, N-1\} : |S| = n\}

    With ``labels`` the counts of any two classes that have rows enough differ by at
    most one, and which classes get the remainder is random.

    Args:
      key: a typed random key.
      features: the rows to choose from, shape ``[N, ...]``; only ``N`` matters.
      num_points: how many rows to draw, at most ``N``; static.
      labels: the class of each row, integers, shape ``[N]``; None ignores classes.
      where: which rows may be drawn, bool, shape ``[N]``. Rows that may not are drawn
        only when the others run out.

    Returns:
      The indices of the rows, int32, shape ``[num_points]``, all different.

    Raises:
      TypeError: if ``key`` is not a typed key, ``features`` not real or ``labels``
        not integer.
      ValueError: if ``num_points`` does not lie in ``1, ..., N`` or a shape does not
        fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> labels = jnp.array([0, 0, 0, 0, 1, 2])
      >>> chosen = distillation.random_subset(
      ...     jax.random.key(0), jnp.zeros((6, 2)), num_points=3, labels=labels
      ... )
      >>> print(jnp.sort(labels[chosen]))
      [0 1 2]
    """
    checks.typed_key(key)
    points, mask = checked_rows(features, where, num_points=num_points)
    size = points.shape[0]
    label = jnp.zeros(size, int) if labels is None else _labels(labels, size)
    key_rank, key_order = jax.random.split(key)
    rank = _rank_in_class(jax.random.uniform(key_rank, (size,)), label, mask)
    # By turns: the first row of every class, then the second of every class.
    order = jnp.lexsort((jax.random.uniform(key_order, (size,)), rank, ~mask))
    if labels is None:
        order = jnp.lexsort((rank, ~mask))
    return order[:num_points].astype(jnp.int32)


def _labels(labels: ArrayLike, size: int) -> jax.Array:
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {array.dtype}.")
    if array.shape != (size,):
        raise ValueError(f"`labels` must have shape {(size,)}, got {array.shape}.")
    return array


def _rank_in_class(draw: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    # Rows that do not count come last in their class and so move no other rank.
    order = jnp.lexsort((draw, ~mask, label))
    in_order = label[order]
    first = jnp.searchsorted(in_order, in_order, side="left")
    rank = jnp.arange(label.size, dtype=first.dtype) - first
    return jnp.zeros_like(rank).at[order].set(rank)


@jit(static_argnames=("num_points", "max_steps"))
def kmeans_subset(
    key: Key,
    features: ArrayLike,
    *,
    num_points: int,
    max_steps: int = 100,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Chooses the row nearest to each center of k-means.

    .. math:: S = \{\arg\min_i \|x_i - c_j\|^2 : j = 1, \dots, n\}

    The features may be pixels or the representations of a teacher. A row that is
    nearest to two centers goes to the first; the second gets its nearest free row.

    Args:
      key: a typed random key, for the start of :func:`kmeans`.
      features: the rows, shape ``[N, ...]``; trailing axes are flattened.
      num_points: the number of centers and of rows, at most ``N``; static.
      max_steps: the most rounds of Lloyd's algorithm; static.
      where: which rows count, bool, shape ``[N]``; the others may hold NaN and are
        chosen only when the rows that count run out.

    Returns:
      The indices of the rows, int32, shape ``[num_points]``, all different, in the
      order of the centers.

    Raises:
      TypeError: if ``key`` is not a typed key or ``features`` not real.
      ValueError: if ``num_points`` does not lie in ``1, ..., N``, ``max_steps`` is
        less than 1 or a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x = jnp.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])[:, None]
      >>> chosen = distillation.kmeans_subset(jax.random.key(0), x, num_points=2)
      >>> print(jnp.sort(chosen))
      [1 4]
    """
    checks.typed_key(key)
    checks.at_least("max_steps", max_steps, 1)
    points, mask = checked_rows(features, where, num_points=num_points)
    centers = fit_kmeans(key, points, mask, num_points, max_steps).centers

    def take(free: jax.Array, distances: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jnp.argmin(jnp.where(free, distances, jnp.inf))
        return free.at[index].set(False), index

    # A second rank below the rows that count, so that no row is taken twice.
    distances = squared_distances(centers, points)
    far = 1.0 + 2.0 * jnp.max(distances)
    distances = jnp.where(mask, distances, far)
    _, chosen = jax.lax.scan(take, jnp.ones_like(mask), distances)
    return chosen.astype(jnp.int32)


def kcenter_greedy(
    features: ArrayLike,
    *,
    num_points: int,
    first: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Chooses, one after another, the row farthest from those chosen before.

    .. math:: s_{j+1} = \arg\max_i \min_{l \le j} \|x_i - x_{s_l}\|

    The largest distance of a row to its nearest chosen row is at most twice the
    smallest one that ``num_points`` rows can give.

    Args:
      features: the rows, shape ``[N, ...]``; trailing axes are flattened.
      num_points: how many rows to choose, at most ``N``; static.
      first: the index of the first row, an integer in ``[0, N)``, which an array is
        trusted to be; None takes the row nearest to the mean.
      where: which rows count, bool, shape ``[N]``; the others may hold NaN and are
        chosen only when the rows that count run out.

    Returns:
      The indices of the rows, int32, shape ``[num_points]``, all different, in the
      order chosen.

    Raises:
      TypeError: if ``features`` is not real or ``first`` not an integer.
      ValueError: if ``num_points`` does not lie in ``1, ..., N``, a shape does not fit
        or ``first`` is a number outside.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x = jnp.array([0.0, 4.0, 5.0, 10.0])[:, None]
      >>> print(distillation.kcenter_greedy(x, num_points=3))
      [2 0 3]

    References:
      Gonzalez, *Clustering to minimize the maximum intercluster distance*,
      Theoretical Computer Science 1985. Sener and Savarese, *Active Learning for
      Convolutional Neural Networks: A Core-Set Approach*, ICLR 2018, algorithm 1.
    """
    shape = np.shape(features)
    if shape and isinstance(first, int | np.integer):
        checks.within("first", int(first), low=0, high=shape[0], high_open=True)
    return _kcenter_greedy(features, num_points=num_points, first=first, where=where)


@jit(static_argnames=("num_points",))
def _kcenter_greedy(
    features: ArrayLike,
    *,
    num_points: int,
    first: ArrayLike | None,
    where: ArrayLike | None,
) -> jax.Array:
    points, mask = checked_rows(features, where, num_points=num_points)
    start = _central(points, mask) if first is None else _index(first)

    def take(state: tuple, _: None) -> tuple[tuple, jax.Array]:
        nearest, index = state
        distance = jnp.sum((points - points[index][None]) ** 2, axis=-1)
        nearest = jnp.minimum(nearest, distance).at[index].set(-jnp.inf)
        return (nearest, jnp.argmax(nearest)), index

    # Differences, not a Gram matrix: rows that coincide are exactly 0 apart.
    nearest = jnp.where(mask, jnp.inf, -1.0).astype(points.dtype)
    _, chosen = jax.lax.scan(take, (nearest, start), length=num_points)
    return chosen.astype(jnp.int32)


def _central(points: jax.Array, mask: jax.Array) -> jax.Array:
    center = masked_mean(points, axis=0, where=mask[:, None])
    distance = jnp.sum((points - center[None]) ** 2, axis=-1)
    return jnp.argmin(jnp.where(mask, distance, jnp.inf))


def _index(first: ArrayLike) -> jax.Array:
    index = jnp.asarray(first)
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.ndim:
        raise TypeError(
            f"`first` must be one integer, got {index.dtype} of shape {index.shape}."
        )
    # The dtype of argmin, so that the state of the loop keeps one type.
    return index.astype(jnp.argmin(jnp.zeros(1)).dtype)
