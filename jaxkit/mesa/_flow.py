"""The reduced gradient flow and its solution in closed form."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.mesa._validate import broadcast_real
from jaxkit.typing import ArrayLike

__all__ = ["reduced_flow_rhs", "reduced_flow_solution"]


@jit()
def reduced_flow_rhs(
    a: ArrayLike, b: ArrayLike, c1: ArrayLike, c2: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    r"""Computes the right side of the reduced gradient flow.

    .. math:: \frac{da}{d\tau} = b\,(c_2 - c_1 ab), \qquad
       \frac{db}{d\tau} = a\,(c_2 - c_1 ab)

    Args:
      a: the diagonal of the key-query block; all arguments broadcast together.
      b: the diagonal of the projection-value block.
      c1: the first constant of :func:`flow_constants`.
      c2: the second constant.

    Returns:
      ``(da, db)``, each of the broadcast shape, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import mesa
      >>> da, db = mesa.reduced_flow_rhs(1.0, 0.5, 2.0, 3.0)
      >>> print(da, db)
      1.0 2.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, lemma 5.2.
    """
    a, b, c1, c2 = broadcast_real(a=a, b=b, c1=c1, c2=c2)
    rate = c2 - c1 * a * b
    return b * rate, a * rate


def reduced_flow_solution(
    a0: ArrayLike, b0: ArrayLike, c1: ArrayLike, c2: ArrayLike, times: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    r"""Solves the reduced gradient flow in closed form.

    With :math:`s = a + b`, :math:`q = a - b`, the conserved :math:`D = a_0^2 - b_0^2
    = sq`, :math:`h = \sqrt{c_2^2 + (c_1 D / 2)^2}` and :math:`E = e^{-2 h \tau}`,

    .. math::
       s = s_0 \sqrt{N / M}, \qquad q = q_0 \sqrt{M / N},

       N = \left(2 (c_2 + h) + c_1 q_0^2\right) (1 - E) + 4 h E,

       M = c_1 s_0^2 \left(1 + \frac{c_1 q_0^2}{2 (c_2 + h)}\right) (1 - E) + 4 h E.

    Every term is positive, so nothing cancels and nothing is divided by ``D``: one
    formula holds for balanced starts (``a0 = b0``), for the separatrix ``a0 = -b0``,
    which ends in the saddle 0, and for the saddle itself, and its first and second
    derivatives are finite there. Away from the separatrix the product ``a b`` tends
    to ``c2 / c1``. Starts closer to the separatrix than about 1e-15 (float32) or 1e-145
    (float64), in units of ``sqrt(c2 / c1)``, are treated as lying on it.

    Args:
      a0: the start of ``a``; all arguments broadcast together.
      b0: the start of ``b``.
      c1: the first constant of :func:`flow_constants`, positive.
      c2: the second constant, positive.
      times: the times ``tau``, at least 0; infinity is allowed.

    Returns:
      ``(a, b)`` at the given times, each of the broadcast shape, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not broadcast, or ``c1`` or ``c2`` is known and
        not positive; a ``debug_check`` under ``jit`` and ``vmap``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> c1, c2 = mesa.flow_constants(mesa.gaussian_moments(5), length=100)
      >>> times = jnp.array([0.0, 1e-3, 1.0])
      >>> a, b = mesa.reduced_flow_solution(0.1, 0.1, c1, c2, times)
      >>> print((a * b).round(6))
      [0.01     0.017283 0.191905]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, lemma 5.2; the solution is derived on the theory page.
    """
    checks.positive(c1=c1, c2=c2)
    return _solution(a0, b0, c1, c2, times)


@jit()
def _solution(
    a0: ArrayLike, b0: ArrayLike, c1: ArrayLike, c2: ArrayLike, times: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    a0, b0, c1, c2, tau = broadcast_real(a0=a0, b0=b0, c1=c1, c2=c2, times=times)
    s0, q0 = a0 + b0, a0 - b0
    d = s0 * q0
    h = c2 * jnp.sqrt(1.0 + jnp.square(c1 * d / (2 * c2)))
    # Decay past this point changes no digit, but its derivatives would overflow.
    decay_limit = 40.0 if a0.dtype == jnp.float32 else 340.0
    settled = h * tau > decay_limit
    tau = jnp.where(settled, jax.lax.stop_gradient(decay_limit / h), tau)
    root_e = jnp.exp(-h * tau)
    one_minus_e = -jnp.expm1(-2 * h * tau)
    n = (2 * (c2 + h) + c1 * q0**2) * one_minus_e + 4 * h * root_e**2
    # M / scale^2: near the separatrix M itself may underflow. The scale drops out
    # of the result, so it counts as a constant.
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.abs(s0), root_e))
    gain = c1 * (1.0 + c1 * q0**2 / (2 * (c2 + h))) * one_minus_e
    m = gain * (s0 / scale) ** 2 + 4 * h * (root_e / scale) ** 2
    ratio = jnp.sqrt(n / m)
    s, q = (s0 / scale) * ratio, q0 * scale / ratio
    # The larger of |a| and |b| adds two terms of one sign; the smaller subtracts
    # them, or, where that loses digits, follows from the product.
    a_is_larger = d >= 0
    larger = 0.5 * jnp.where(a_is_larger, s + q, s - q)
    difference = 0.5 * jnp.where(a_is_larger, s - q, s + q)
    rate = 16 * h**2 * (c2 - c1 * a0 * b0) * (root_e / scale) ** 2 / (n * m)
    divides = c1 * larger**2 > 4 * c2
    quotient = (c2 - rate) / c1 / jnp.where(divides, larger, 1.0)
    smaller = jnp.where(divides, quotient, difference)
    a = jnp.where(a_is_larger, larger, smaller)
    b = jnp.where(a_is_larger, smaller, larger)
    return a, b
