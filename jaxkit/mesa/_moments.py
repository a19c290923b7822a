"""Moments of the first token, for the laws of the theory and for samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._validate import broadcast_real
from jaxkit.typing import ArrayLike

__all__ = [
    "Moments",
    "empirical_moments",
    "gaussian_moments",
    "ones_moments",
    "rademacher_moments",
    "sparse_moments",
    "uniform_moments",
]


class Moments(NamedTuple):
    r"""Moments of the first token, the same for all coordinates.

    Each entry is a Python number or an array; arrays broadcast together, so that one
    call treats many laws.

    Attributes:
      m2: ``E[u_j^2]``.
      k1: ``E[u_j^4]``.
      k2: ``E[u_j^6]``.
      k3: the sum over ``r != j`` of ``E[u_j^2 u_r^4]``.
      m42: ``E[u_p^4 u_q^2]`` for ``p != q``; ``k3 = (dim - 1) * m42``.
      m222: ``E[u_p^2 u_q^2 u_r^2]`` for distinct ``p``, ``q``, ``r``.
    """

    m2: ArrayLike
    k1: ArrayLike
    k2: ArrayLike
    k3: ArrayLike
    m42: ArrayLike
    m222: ArrayLike


def _independent(
    scale: ArrayLike, dim: int, second: float, fourth: float, sixth: float
) -> Moments:
    # Coordinates are independent: mixed moments are products.
    checks.at_least("dim", dim, 1)
    (scale,) = broadcast_real(scale=scale)
    m42 = fourth * second * scale**6
    return Moments(
        m2=second * scale**2,
        k1=fourth * scale**4,
        k2=sixth * scale**6,
        k3=(dim - 1) * m42,
        m42=m42,
        m222=second**3 * scale**6,
    )


@jit(static_argnames=("dim",))
def gaussian_moments(dim: int, *, scale: ArrayLike = 1.0) -> Moments:
    r"""Gives the moments of a Gaussian vector ``N(0, scale^2 I)``.

    .. math:: m_2 = \sigma^2,\ \kappa_1 = 3\sigma^4,\ \kappa_2 = 15\sigma^6,\
       \kappa_3 = 3(d-1)\sigma^6,\ m_{42} = 3\sigma^6,\ m_{222} = \sigma^6

    Args:
      dim: the dimension, at least 1; static.
      scale: the standard deviation, any shape.

    Returns:
      The :class:`Moments`, each of the shape of ``scale``, at least float32.

    Raises:
      TypeError: if ``scale`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(5)
      >>> print(moments.k2, moments.k3)
      15.0 12.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 4.1.
    """
    return _independent(scale, dim, 1.0, 3.0, 15.0)


@jit(static_argnames=("dim",))
def uniform_moments(dim: int, *, scale: ArrayLike = 1.0) -> Moments:
    r"""Gives the moments of independent uniforms on ``[-scale, scale]``.

    .. math:: m_2 = c^2/3,\ \kappa_1 = c^4/5,\ \kappa_2 = c^6/7,\
       m_{42} = c^6/15,\ m_{222} = c^6/27

    Args:
      dim: the dimension, at least 1; static.
      scale: the half width ``c``, any shape.

    Returns:
      The :class:`Moments`, each of the shape of ``scale``, at least float32.

    Raises:
      TypeError: if ``scale`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> print(mesa.uniform_moments(5).k1)
      0.2

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 4.1.
    """
    return _independent(scale, dim, 1 / 3, 1 / 5, 1 / 7)


@jit(static_argnames=("dim",))
def rademacher_moments(dim: int, *, scale: ArrayLike = 1.0) -> Moments:
    r"""Gives the moments of independent signs ``+-scale``.

    .. math:: m_2 = c^2,\ \kappa_1 = c^4,\ \kappa_2 = m_{42} = m_{222} = c^6,\
       \kappa_3 = (d-1) c^6

    Args:
      dim: the dimension, at least 1; static.
      scale: the size ``c``, any shape.

    Returns:
      The :class:`Moments`, each of the shape of ``scale``, at least float32.

    Raises:
      TypeError: if ``scale`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> print(mesa.rademacher_moments(5).k3)
      4.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 4.2.
    """
    return _independent(scale, dim, 1.0, 1.0, 1.0)


@jit(static_argnames=("dim",))
def ones_moments(dim: int, *, scale: ArrayLike = 1.0) -> Moments:
    r"""Gives the moments of the constant vector ``scale * (1, ..., 1)``.

    .. math:: m_2 = c^2,\ \kappa_1 = c^4,\ \kappa_2 = m_{42} = m_{222} = c^6,\
       \kappa_3 = (d-1) c^6

    They equal those of :func:`rademacher_moments`, but the law is not invariant
    under a change of sign: the theory holds for it only when the non-diagonal
    gradients are masked (:func:`keep_diagonal_updates`), and
    :func:`population_loss`, which needs sign symmetry, is not its loss.

    Args:
      dim: the dimension, at least 1; static.
      scale: the size ``c``, any shape.

    Returns:
      The :class:`Moments`, each of the shape of ``scale``, at least float32.

    Raises:
      TypeError: if ``scale`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> print(f"{mesa.limit_product(mesa.ones_moments(5), length=100):.6f}")
      0.825826

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, theorem 4.3.
    """
    return _independent(scale, dim, 1.0, 1.0, 1.0)


@jit(static_argnames=("dim",))
def sparse_moments(dim: int, *, scale: ArrayLike = 1.0) -> Moments:
    r"""Gives the moments of a vector with one non-zero coordinate ``+-scale``.

    .. math:: m_2 = c^2/d,\ \kappa_1 = c^4/d,\ \kappa_2 = c^6/d,\
       \kappa_3 = m_{42} = m_{222} = 0

    Args:
      dim: the dimension, at least 1; static.
      scale: the size ``c``, any shape.

    Returns:
      The :class:`Moments`, each of the shape of ``scale``, at least float32.

    Raises:
      TypeError: if ``scale`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.sparse_moments(5, scale=0.5)
      >>> print(mesa.limit_product(moments, length=100))
      4.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, example 4.1.
    """
    checks.at_least("dim", dim, 1)
    (scale,) = broadcast_real(scale=scale)
    zero = jnp.zeros_like(scale)
    return Moments(
        m2=scale**2 / dim,
        k1=scale**4 / dim,
        k2=scale**6 / dim,
        k3=zero,
        m42=zero,
        m222=zero,
    )


@jit()
def empirical_moments(samples: ArrayLike) -> Moments:
    r"""Estimates the moments from samples, averaged over the coordinates.

    .. math:: \hat m_{42} = \frac{1}{n d (d-1)} \sum_i \sum_{p \ne q}
       u_{ip}^4 u_{iq}^2 \quad\text{and so on}

    Mixed moments that need more coordinates than there are come back as 0.

    Args:
      samples: real first tokens, shape ``[num_samples, dim]``.

    Returns:
      The :class:`Moments`, scalars of the dtype of ``samples``, at least float32.

    Raises:
      TypeError: if ``samples`` is not real.
      ValueError: if ``samples`` is not a non-empty matrix.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> moments = mesa.empirical_moments(jnp.array([[1.0, -1.0], [1.0, 1.0]]))
      >>> print(moments.m2, moments.k3)
      1.0 1.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, assumption 4.1.
    """
    (samples,) = checks.floating(samples=samples)
    if samples.ndim != 2 or not samples.size:
        raise ValueError(
            f"`samples` must have shape (num_samples, dim), not empty, "
            f"got {samples.shape}."
        )
    n, dim = samples.shape
    square = jnp.square(samples.astype(accumulation_dtype(samples)))
    # Elementary symmetric sums from exclusive partial sums: unlike the power sums
    # s1^3 - 3 s1 s2 + 2 s3 they have no cancellation.
    pairs = square * _exclusive_cumsum(square)
    triples = jnp.sum(square * _exclusive_cumsum(pairs), axis=-1)
    fourth = jnp.square(square)
    mixed = jnp.matmul(fourth.T, square, precision=jax.lax.Precision.HIGHEST) / n
    off_diagonal = jnp.sum(jnp.where(jnp.eye(dim, dtype=bool), 0.0, mixed))
    count = dim * (dim - 1) * (dim - 2) / 6
    return Moments(
        m2=jnp.mean(square),
        k1=jnp.mean(fourth),
        k2=jnp.mean(fourth * square),
        k3=off_diagonal / dim,
        m42=off_diagonal / max(dim * (dim - 1), 1),
        m222=jnp.mean(triples) / max(count, 1),
    )


def _exclusive_cumsum(values: jax.Array) -> jax.Array:
    inclusive = jnp.cumsum(values, axis=-1)
    return jnp.pad(inclusive[..., :-1], [(0, 0)] * (values.ndim - 1) + [(1, 0)])
