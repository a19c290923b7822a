"""The von Mises-Fisher distribution on the sphere, in any dimension."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import l2_normalize, masked_fill, masked_mean, safe_norm
from jaxkit.typing import ArrayLike

__all__ = [
    "VonMisesFisher",
    "vmf_fit",
    "vmf_log_normalizer",
    "vmf_log_prob",
    "vmf_mean_resultant",
]

# Orders this far up the uniform expansion of the Bessel function is exact; the ratios
# of neighbors lead down to the order asked for, each step shrinking the error.
_SHIFT = 24
_NEWTON_STEPS = 6


class VonMisesFisher(NamedTuple):
    """A distribution on the unit sphere, normal around one direction.

    Attributes:
      mean: the mean direction, a unit vector, shape ``[..., D]``.
      kappa: the concentration, at least 0, shape ``[...]``; 0 is uniform.
    """

    mean: jax.Array
    kappa: jax.Array


class _Bessel(NamedTuple):
    """What the recursion over orders gives at one concentration.

    Attributes:
      log_normalizer: ``log C(kappa) + kappa``, which stays of moderate size.
      ratio: ``A(kappa)``, the mean of the cosine to the mean direction.
      slope: ``dA / d kappa``.
    """

    log_normalizer: jax.Array
    ratio: jax.Array
    slope: jax.Array


def _polynomial(s: jax.Array, *coefficients: float) -> jax.Array:
    total = jnp.zeros_like(s)
    for coefficient in reversed(coefficients):
        total = total * s + coefficient
    return total


def _expansion(t: jax.Array, n: float) -> tuple[jax.Array, jax.Array]:
    """Gives U, with four terms, and W / (1 + U) of the uniform expansion at order n.

    With t = n / sqrt(n^2 + kappa^2) the ratio of orders n + 1 and n is
    kappa / (r + n) + (kappa / r) W / (1 + U): the factor 1 - t^2, which would cancel
    at small kappa, is divided out of W by hand.
    """
    s, x = t * t, t / n
    u1 = x * _polynomial(s, 3.0, -5.0) / 24.0
    u2 = x**2 * _polynomial(s, 81.0, -462.0, 385.0) / 1152.0
    u3 = x**3 * _polynomial(s, 30375.0, -369603.0, 765765.0, -425425.0) / 414720.0
    fourth = (4465125.0, -94121676.0, 349922430.0, -446185740.0, 185910725.0)
    u4 = x**4 * _polynomial(s, *fourth) / 39813120.0
    w = (
        -x / 2.0
        + x**2 * _polynomial(s, -9.0, 35.0) / 48.0
        + x**3 * _polynomial(s, -405.0, 4158.0, -5005.0) / 2304.0
    )
    return u1 + u2 + u3 + u4, w / (1.0 + u1 + u2 + u3)


def _bessel(kappa: jax.Array, dim: int) -> _Bessel:
    order = dim / 2 - 1
    n = order + _SHIFT
    r = jnp.sqrt(n * n + kappa * kappa)
    t = n / r
    (u, g), (_, dg) = jax.jvp(lambda t: _expansion(t, n), (t,), (jnp.ones_like(t),))
    # I_n without its factor kappa^n and without exp(kappa), then I_{n+1} / (kappa I_n).
    log_bessel = (
        n * n / (r + kappa)
        - n * jnp.log(n + r)
        - 0.5 * jnp.log(2.0 * math.pi * r)
        + jnp.log1p(u)
    )
    ratio = 1.0 / (r + n) + g / r
    slope = n / (r * (r + n)) + (t * t / r) * g - (kappa / r) ** 2 * (t / r) * dg

    def one_order_down(
        carry: tuple[jax.Array, jax.Array, jax.Array], q: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        ratio, slope, logs = carry
        ratio = 1.0 / (2.0 * q + kappa * (kappa * ratio))
        slope = ratio * ratio * (2.0 * q - kappa * (kappa * slope))
        return (ratio, slope, logs + jnp.log(ratio)), None

    orders = n - jnp.arange(_SHIFT, dtype=kappa.dtype)
    start = (ratio, slope, jnp.zeros_like(kappa))
    (ratio, slope, logs), _ = jax.lax.scan(one_order_down, start, orders)
    constant = -0.5 * dim * math.log(2.0 * math.pi)
    return _Bessel(constant - log_bessel + logs, kappa * ratio, slope)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _ratio(kappa: jax.Array, dim: int) -> jax.Array:
    return _bessel(kappa, dim).ratio


@_ratio.defjvp
def _ratio_jvp(
    dim: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Not 1 - A^2 - (D - 1) A / kappa, which cancels at both ends.
    out = _bessel(primals[0], dim)
    return out.ratio, out.slope * tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _scaled_log_normalizer(kappa: jax.Array, dim: int) -> jax.Array:
    return _bessel(kappa, dim).log_normalizer


@_scaled_log_normalizer.defjvp
def _scaled_log_normalizer_jvp(
    dim: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (kappa,) = primals
    value = _scaled_log_normalizer(kappa, dim)
    return value, (1.0 - _ratio(kappa, dim)) * tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _concentration(length: jax.Array, dim: int) -> jax.Array:
    """Solves A(kappa) = length."""

    def newton(_: int, kappa: jax.Array) -> jax.Array:
        out = _bessel(kappa, dim)
        return jnp.maximum(kappa - (out.ratio - length) / out.slope, 0.0)

    start = length * (dim - length**2) / (1.0 - length**2)
    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, start)


@_concentration.defjvp
def _concentration_jvp(
    dim: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    kappa = _concentration(primals[0], dim)
    return kappa, tangents[0] / _bessel(kappa, dim).slope


def _checked(kappa: ArrayLike, dim: int) -> jax.Array:
    checks.at_least("dim", dim, 2)
    checks.within("kappa", kappa, low=0.0)
    (kappa,) = checks.floating(kappa=kappa)
    return kappa.astype(accumulation_dtype(kappa))


@jit(static_argnames=("dim",))
def vmf_log_normalizer(kappa: ArrayLike, *, dim: int) -> jax.Array:
    r"""Log of the factor that makes a von Mises-Fisher density integrate to 1.

    .. math::

        \log C_D(\kappa) = \nu \log \kappa - \tfrac{D}{2} \log 2 \pi
            - \log I_\nu(\kappa), \qquad \nu = \tfrac{D}{2} - 1

    The Bessel function is expanded 24 orders up and led down by ratios, a fixed number
    of operations at any concentration, 0 included. The derivative is
    :math:`-A_D(\kappa)`, see :func:`vmf_mean_resultant`.

    Args:
      kappa: the concentration, at least 0, any shape ``[...]``.
      dim: the dimension ``D`` of the space, at least 2; static.

    Returns:
      ``log C``, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``kappa`` is not real or ``dim`` not an integer.
      ValueError: if ``dim`` is less than 2.

    Examples:
      The uniform density on the circle is 1 / (2 pi).

      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(f"{jnp.exp(hypersphere.vmf_log_normalizer(0.0, dim=2)):.4f}")
      0.1592

    References:
      Mardia and Jupp, *Directional Statistics*, 2000, section 9.3; *NIST Digital
      Library of Mathematical Functions*, 10.41 (the expansion) and 10.29 (recursion).
    """
    kappa = _checked(kappa, dim)
    return _scaled_log_normalizer(kappa, dim) - kappa


@jit(static_argnames=("dim",))
def vmf_mean_resultant(kappa: ArrayLike, *, dim: int) -> jax.Array:
    r"""Mean cosine to the mean direction, the length of the mean vector.

    .. math::

        A_D(\kappa) = \frac{I_{D/2}(\kappa)}{I_{D/2 - 1}(\kappa)}
            = - \frac{d}{d \kappa} \log C_D(\kappa), \qquad
        A_D' = 1 - A_D^2 - \frac{D - 1}{\kappa} A_D

    The derivative is computed by a recursion that does not cancel as the formula does.

    Args:
      kappa: the concentration, at least 0, any shape ``[...]``.
      dim: the dimension ``D`` of the space, at least 2; static.

    Returns:
      ``A`` in [0, 1), shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``kappa`` is not real or ``dim`` not an integer.
      ValueError: if ``dim`` is less than 2.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.vmf_mean_resultant(10.0, dim=3):.4f}")
      0.9000

    References:
      Mardia and Jupp, *Directional Statistics*, 2000, section 9.3.
    """
    return _ratio(_checked(kappa, dim), dim)


@jit()
def vmf_log_prob(
    embeddings: ArrayLike,
    mean: ArrayLike,
    kappa: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-density of directions under von Mises-Fisher distributions.

    .. math:: \log p(\hat x) = \log C_D(\kappa) + \kappa \, \hat x \cdot \hat \mu

    with respect to the area of the sphere. It is computed as
    :math:`(\log C_D + \kappa) - \tfrac{\kappa}{2} \|\hat x - \hat \mu\|^2`, which keeps
    its digits at large concentrations. With one shared concentration a classifier of
    this density is :func:`normface_loss` at scale :math:`\kappa`; a concentration per
    class or per example needs :math:`\log C_D`.

    Args:
      embeddings: vectors of any length, shape ``[..., D]``; a zero vector has cosine 0
        to every direction.
      mean: the mean directions, vectors of any length, broadcastable to ``[..., D]``.
      kappa: the concentrations, at least 0, broadcastable to ``[...]``.
      where: which examples count, bool ``[...]``; the others give 0 and no gradient.

    Returns:
      The log-densities, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes do not fit or ``D < 2``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[0.0, 2.0], [1.0, 0.0]])
      >>> log_prob = hypersphere.vmf_log_prob(x, jnp.array([[0.0, 1.0]]), 5.0)
      >>> print(log_prob.round(3))
      [-0.143 -5.143]

    References:
      Mardia and Jupp, *Directional Statistics*, 2000, section 9.3.
    """
    checks.within("kappa", kappa, low=0.0)
    embeddings, mean, kappa = checks.floating(
        embeddings=embeddings, mean=mean, kappa=kappa
    )
    checks.axis_size("embeddings", embeddings, -1, 2)
    checks.broadcastable("mean", mean, embeddings.shape)
    checks.broadcastable("kappa", kappa, embeddings.shape[:-1])
    shape, dtype = embeddings.shape, accumulation_dtype(embeddings, mean)
    mask = checks.mask("where", where, shape[:-1])
    x = masked_fill(embeddings.astype(dtype), mask[..., None])
    mean = jnp.broadcast_to(mean.astype(dtype), shape)
    mean = l2_normalize(masked_fill(mean, mask[..., None]))
    kappa = masked_fill(jnp.broadcast_to(kappa.astype(dtype), shape[:-1]), mask)
    x = l2_normalize(x)
    # 2 - 2 cos, also for a zero vector, whose cosine is 0.
    zeros = sum(jnp.all(v == 0, axis=-1).astype(dtype) for v in (x, mean))
    distance = jnp.sum(jnp.square(x - mean), axis=-1) + zeros
    value = _scaled_log_normalizer(kappa, shape[-1]) - 0.5 * kappa * distance
    return masked_fill(value, mask)


@jit()
def vmf_fit(embeddings: ArrayLike, *, where: ArrayLike | None = None) -> VonMisesFisher:
    r"""Fits a von Mises-Fisher distribution to directions by maximum likelihood.

    .. math::

        \hat \mu = \frac{\sum_i \hat x_i}{\|\sum_i \hat x_i\|}, \qquad
        A_D(\kappa) = \bar R = \frac{1}{N} \Bigl\| \sum_i \hat x_i \Bigr\|

    Six steps of Newton's method from :math:`\bar R (D - \bar R^2) / (1 - \bar R^2)`.

    Args:
      embeddings: vectors of any length, shape ``[N, D]``.
      where: which examples count, bool ``[N]``; the others may hold NaN.

    Returns:
      The mean direction ``[D]`` and the concentration, at least float32. If all
      directions agree the concentration is infinite, without a useful gradient; if they
      cancel, or nothing counts, both are 0. A concentration in float32 has a relative
      error near ``1e-7 * kappa / (D - 1)``.

    Raises:
      TypeError: if ``embeddings`` is not real, or ``where`` not bool.
      ValueError: if ``embeddings`` is not ``[N, D]`` with ``D >= 2``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> angles = jnp.array([-0.5, 0.5])
      >>> x = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
      >>> fit = hypersphere.vmf_fit(x)
      >>> print(fit.mean, f"{fit.kappa:.3f}")
      [1. 0.] 4.409

    References:
      Banerjee et al., *Clustering on the Unit Hypersphere using von Mises-Fisher
      Distributions*, JMLR 2005 (the start); Sra, *A short note on parameter
      approximation for von Mises-Fisher distributions*, 2012 (the steps).
    """
    (embeddings,) = checks.floating(embeddings=embeddings)
    if embeddings.ndim != 2:
        raise ValueError(
            f"`embeddings` must have shape (N, D), got {embeddings.shape}."
        )
    checks.axis_size("embeddings", embeddings, 1, 2)
    mask = checks.mask("where", where, embeddings.shape[:1])
    wide = embeddings.astype(accumulation_dtype(embeddings))
    x = l2_normalize(masked_fill(wide, mask[:, None]))
    center = masked_mean(x, axis=0, where=mask[:, None])
    length, dim = safe_norm(center), embeddings.shape[1]
    agree = length >= 1.0
    kappa = _concentration(jnp.where(agree, 0.5, length), dim)
    return VonMisesFisher(l2_normalize(center), jnp.where(agree, jnp.inf, kappa))
