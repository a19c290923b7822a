"""Elementary functions in a form that is safe to differentiate."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["abs_squared"]


@jit()
def abs_squared(values: ArrayLike) -> jax.Array:
    r"""Squares the modulus, as a real array with a finite gradient at zero.

    .. math:: y = |z|^2 = (\operatorname{Re} z)^2 + (\operatorname{Im} z)^2

    ``jnp.abs(z) ** 2`` takes a square root first, whose derivative at 0 is infinite
    and costs more.

    Args:
      values: floating or complex array, shape ``[...]``.

    Returns:
      Real array of shape ``[...]``; complex64 gives float32, complex128 float64,
      a real dtype is kept.

    Raises:
      TypeError: if ``values`` is not floating or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> print(ops.abs_squared(jnp.array([3.0 + 4.0j])))
      [25.]
    """
    (values,) = checks.inexact(values=values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        return jnp.square(values.real) + jnp.square(values.imag)
    return jnp.square(values)
