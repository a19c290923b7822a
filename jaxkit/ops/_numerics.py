"""Elementary functions in a form that is safe to differentiate."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops._masking import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["abs_squared", "l2_normalize", "safe_norm"]


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


def _norm_and_scale(
    values: ArrayLike, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gives the vectors over their largest entry, the norm of those, and that entry."""
    (values,) = checks.floating(values=values)
    checks.axis_size("values", values, axis, 1)
    values = values.astype(accumulation_dtype(values))
    # The result does not depend on the scale, so that it needs no gradient.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(values), axis=axis, keepdims=True))
    nonzero = largest != 0
    scaled = values / masked_fill(largest, nonzero, fill=1.0)
    total = jnp.sum(jnp.square(scaled), axis=axis, keepdims=True)
    norm = masked_fill(jnp.sqrt(masked_fill(total, nonzero, fill=1.0)), nonzero)
    return scaled, norm, largest


@jit(static_argnames=("axis",))
def safe_norm(values: ArrayLike, *, axis: int = -1) -> jax.Array:
    r"""Measures the Euclidean length, with a zero gradient at the zero vector.

    .. math:: y = \sqrt{\textstyle\sum_i x_i^2}, \qquad
        \partial y / \partial x = x / y \text{ if } y > 0 \text{ else } 0

    The entries are divided by the largest one first: no square overflows or vanishes.

    Args:
      values: real array, shape ``[..., n]``.
      axis: the axis along which the vectors lie.

    Returns:
      The lengths, without that axis, at least float32.

    Raises:
      TypeError: if ``values`` is not real and floating.
      ValueError: if the axis is missing or empty.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> print(ops.safe_norm(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
      [5. 0.]
      >>> print(jax.grad(ops.safe_norm)(jnp.zeros(2)))
      [0. 0.]
    """
    _, norm, largest = _norm_and_scale(values, axis)
    return jnp.squeeze(norm * largest, axis)


@jit(static_argnames=("axis",))
def l2_normalize(values: ArrayLike, *, axis: int = -1) -> jax.Array:
    r"""Gives vectors length one, and leaves the zero vector at zero.

    .. math:: y = x / \lVert x \rVert \text{ if } x \ne 0 \text{ else } 0

    The zero vector has a zero gradient. Dividing by
    :math:`\max(\lVert x \rVert, 10^{-12})` instead gives it one of :math:`10^{12}`.

    Args:
      values: real array, shape ``[..., n]``.
      axis: the axis along which the vectors lie.

    Returns:
      The unit vectors, of the shape of ``values``, at least float32.

    Raises:
      TypeError: if ``values`` is not real and floating.
      ValueError: if the axis is missing or empty.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> print(ops.l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
      [[0.6 0.8]
       [0.  0. ]]
    """
    scaled, norm, _ = _norm_and_scale(values, axis)
    nonzero = jnp.broadcast_to(norm != 0, scaled.shape)
    return masked_fill(scaled / masked_fill(norm, norm != 0, fill=1.0), nonzero)
