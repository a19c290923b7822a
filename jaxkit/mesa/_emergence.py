"""A check of the moment conditions under which one gradient step emerges."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["EmergenceReport", "MomentCheck", "check_emergence_moments"]

_HIGHEST = jax.lax.Precision.HIGHEST


class MomentCheck(NamedTuple):
    """The worst violation of one group of moment conditions.

    Attributes:
      violation: the largest absolute mean that should vanish, divided by the power
        of ``E[u_j^2]`` of its degree; a scalar.
      standard_error: the standard error of that entry, on the same scale.
      z_score: the largest mean over its standard error in the whole group; infinite
        for a violation without any spread.
    """

    violation: jax.Array
    standard_error: jax.Array
    z_score: jax.Array


class EmergenceReport(NamedTuple):
    """The conditions of the emergence theorem, group by group.

    Attributes:
      power_one: moments with some coordinate to the power one.
      odd_cubes: ``E[u_j^3 u_l^3]``, which the published condition forgets.
      equal_moments: differences between coordinates of ``k1``, ``k2`` and ``k3``.
      holds: whether all z-scores are within the tolerance, a boolean scalar.
    """

    power_one: MomentCheck
    odd_cubes: MomentCheck
    equal_moments: MomentCheck
    holds: jax.Array


@jit()
def check_emergence_moments(
    samples: ArrayLike, *, weights: ArrayLike | None = None, tol: ArrayLike = 6.0
) -> EmergenceReport:
    r"""Tests whether the law of the first token keeps the layer diagonal.

    .. math:: E[u_j^3 u_l] = E[u_j^5 u_l] = E[u_j^4 u_l u_m] = E[u_j^3 u_k^2 u_l]
       = E[u_j^2 u_k^2 u_l u_m] = 0, \qquad E[u_j^3 u_l^3] = 0

    for distinct indices, and ``k1``, ``k2``, ``k3`` equal for all coordinates: the
    moments that enter the off-diagonal gradient at a diagonal point. The last
    condition is missing in the paper, and independent centered but *skewed*
    coordinates violate it. Invariance of the law under a change of sign of any one
    coordinate suffices for all but the equality.

    From finitely many samples a true zero comes out as noise: judge by the z-score.
    The largest of many entries is normally below 4, hence the default ``tol``. The
    cost is ``num_samples * dim^4``.

    Args:
      samples: real first tokens, shape ``[num_samples, dim]``, or atoms of the law.
      weights: None for samples; for the atoms of an exact law their probabilities,
        shape ``[num_samples]``, normalized here. There is then no sampling error:
        any violation beyond rounding has an infinite z-score.
      tol: the largest z-score that passes, a scalar.

    Returns:
      The :class:`EmergenceReport`, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> normal = jax.random.normal(jax.random.key(0), (1000, 3))
      >>> print(mesa.check_emergence_moments(normal).holds)
      True
      >>> skewed = jnp.array([[2.0, 2.0], [2.0, -1.0], [-1.0, 2.0], [-1.0, -1.0]])
      >>> weights = jnp.array([1.0, 2.0, 2.0, 4.0])
      >>> report = mesa.check_emergence_moments(skewed, weights=weights)
      >>> print(report.holds, f"{report.odd_cubes.violation:.3f}")
      False 0.500

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, assumption 4.1, with the correction of this library's guide.
    """
    (u,) = checks.floating(samples=samples)
    if u.ndim != 2 or not u.size:
        raise ValueError(
            f"`samples` must have shape (num_samples, dim), not empty, got {u.shape}."
        )
    u = u.astype(accumulation_dtype(u))
    law = _law(u, weights)
    u = u / jnp.sqrt(jnp.sum(law.weights[:, None] * jnp.square(u)) / u.shape[1])
    power_one = _worst([_products(*pair, law) for pair in _power_one_pairs(u)])
    odd_cubes = _worst([_products(_powers(u, 3), _powers(u, 3), law)])
    equal_moments = _worst([_differences(u, law)])
    (tol,) = checks.floating(tol=tol)
    groups = (power_one, odd_cubes, equal_moments)
    holds = jnp.all(jnp.stack([g.z_score <= tol.astype(u.dtype) for g in groups]))
    return EmergenceReport(*groups, holds)


class _Law(NamedTuple):
    weights: jax.Array
    # What turns the variance of one sample into that of the mean.
    mean_variance: jax.Array


class _Feature(NamedTuple):
    # Monomials of every sample, [num_samples, count], and the coordinates in each.
    values: jax.Array
    coordinates: np.ndarray


class _Means(NamedTuple):
    # Flat: the means that should vanish, their errors, and the size of rounding.
    mean: jax.Array
    error: jax.Array
    rounding: jax.Array


def _law(u: jax.Array, weights: ArrayLike | None) -> _Law:
    n = u.shape[0]
    if weights is None:
        uniform = jnp.full((n,), 1.0 / n, u.dtype)
        return _Law(uniform, jnp.asarray(1.0 / n, u.dtype))
    (weights,) = checks.floating(weights=weights)
    if weights.shape != (n,):
        raise ValueError(f"`weights` must have shape {(n,)}, got {weights.shape}.")
    weights = weights.astype(u.dtype)
    return _Law(weights / jnp.sum(weights), jnp.zeros((), u.dtype))


def _powers(u: jax.Array, power: int) -> _Feature:
    return _Feature(u**power, np.arange(u.shape[1])[:, None])


def _pairs(left: _Feature, right: _Feature) -> _Feature:
    values = left.values[:, :, None] * right.values[:, None, :]
    p, q = np.divmod(np.arange(values[0].size), values.shape[2])
    coordinates = np.concatenate([left.coordinates[p], right.coordinates[q]], axis=1)
    distinct = np.flatnonzero(coordinates[:, 0] != coordinates[:, 1])
    return _Feature(values.reshape(len(values), -1)[:, distinct], coordinates[distinct])


def _power_one_pairs(u: jax.Array) -> list[tuple[_Feature, _Feature]]:
    one, two = _powers(u, 1), _powers(u, 2)
    return [
        (_powers(u, 3), one),
        (_powers(u, 5), one),
        (_powers(u, 4), _pairs(one, one)),
        (_powers(u, 3), _pairs(two, one)),
        (_pairs(two, two), _pairs(one, one)),
    ]


def _products(left: _Feature, right: _Feature, law: _Law) -> _Means:
    # The second moment of a product is the product of squares: no array of all
    # monomials of all samples is formed.
    weighted = law.weights[:, None]
    mean = jnp.matmul((weighted * left.values).T, right.values, precision=_HIGHEST)
    square = jnp.matmul(
        (weighted * jnp.square(left.values)).T,
        jnp.square(right.values),
        precision=_HIGHEST,
    )
    clash = left.coordinates[:, None, :, None] == right.coordinates[None, :, None, :]
    p, q = np.nonzero(~clash.any(axis=(2, 3)))
    mean, square = mean[p, q], square[p, q]
    return _finish(mean, square - jnp.square(mean), square, law)


def _differences(u: jax.Array, law: _Law) -> _Means:
    square = jnp.square(u)
    fourth = jnp.square(square)
    others = jnp.sum(fourth, axis=1, keepdims=True) - fourth
    moments = jnp.stack([fourth, fourth * square, square * others], axis=1)
    excess = moments - jnp.mean(moments, axis=2, keepdims=True)
    weights = law.weights[:, None, None]
    mean = jnp.sum(weights * excess, axis=0)
    variance = jnp.sum(weights * jnp.square(excess - mean[None]), axis=0)
    size = jnp.sum(weights * jnp.square(moments), axis=0)
    return _finish(mean.ravel(), variance.ravel(), size.ravel(), law)


def _finish(mean: jax.Array, variance: jax.Array, size: jax.Array, law: _Law) -> _Means:
    root = lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
    rounding = 100 * jnp.finfo(mean.dtype).eps * root(size)
    return _Means(jnp.abs(mean), root(variance * law.mean_variance), rounding)


def _worst(groups: list[_Means]) -> MomentCheck:
    mean, error, rounding = (
        jnp.concatenate(part) for part in zip(*groups, strict=True)
    )
    if not mean.size:
        zero = jnp.zeros((), mean.dtype)
        return MomentCheck(zero, zero, zero)
    # Rounding noise is no violation, however small the spread.
    ratio = jnp.where(error > 0, mean / jnp.where(error > 0, error, 1.0), jnp.inf)
    z_score = jnp.max(jnp.where(mean > rounding, ratio, 0.0))
    worst = jnp.argmax(mean)
    return MomentCheck(mean[worst], error[worst], z_score)
