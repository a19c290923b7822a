"""Masks that neither the value nor the gradient of a masked entry can cross."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype, promoted_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["masked_fill", "masked_mean", "masked_sum", "safe_divide"]


@jit()
def masked_fill(
    values: ArrayLike, where: ArrayLike | None = None, *, fill: ArrayLike = 0.0
) -> jax.Array:
    r"""Replaces the entries that do not count by a harmless value.

    .. math:: y_i = x_i \text{ if } w_i \text{ else } \mathrm{fill}

    Applied *before* a non-linear formula and again to its result (the double
    ``where``), it keeps NaN and infinities at masked entries out of both the value
    and the gradient. Applied only after the formula it does not: the gradient of
    the unused branch is then ``0 * nan``.

    Args:
      values: any array of floating or complex dtype, shape ``[...]``.
      where: which entries count, bool, broadcastable to ``[...]``; None means all.
      fill: the value at the others, a scalar.

    Returns:
      An array of the shape and dtype of ``values``.

    Raises:
      TypeError: if ``values`` is not floating or complex, or ``where`` not bool.
      ValueError: if ``where`` does not broadcast to the shape of ``values``.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> def log_of_positive(x):
      ...     mask = x > 0
      ...     safe = ops.masked_fill(x, mask, fill=1.0)
      ...     return ops.masked_fill(jnp.log(safe), mask)
      >>> print(jax.vmap(jax.grad(log_of_positive))(jnp.array([0.0, 2.0])))
      [0.  0.5]
    """
    (values,) = checks.inexact(values=values)
    if where is None:
        return values
    mask = checks.mask("where", where, values.shape)
    return jnp.where(mask, values, jnp.asarray(fill, values.dtype))


@jit(static_argnames=("axis",))
def masked_sum(
    values: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Sums the entries that count.

    .. math:: y = \sum_{i : w_i} x_i

    Args:
      values: floating or complex array, shape ``[...]``.
      axis: the axes to sum over; None means all.
      where: which entries count, bool, broadcastable to ``[...]``; the others may
        hold NaN and get no gradient.

    Returns:
      The sum, at least float32; 0 where nothing counts.

    Raises:
      TypeError: if ``values`` is not floating or complex, or ``where`` not bool.
      ValueError: if ``where`` does not broadcast to the shape of ``values``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> x = jnp.array([1.0, jnp.nan, 3.0])
      >>> print(ops.masked_sum(x, where=jnp.array([True, False, True])))
      4.0
    """
    (values,) = checks.inexact(values=values)
    values = values.astype(accumulation_dtype(values))
    return jnp.sum(masked_fill(values, where), axis=axis)


@jit(static_argnames=("axis",))
def masked_mean(
    values: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Averages the entries that count.

    .. math:: y = \frac{\sum_i w_i x_i}{\max(1, \sum_i w_i)}

    This is how the per-example losses of jaxkit are reduced. When the batch is
    spread over devices by hand, take ``psum`` of :func:`masked_sum` and of the
    count, never a mean of means.

    Args:
      values: floating or complex array, shape ``[...]``.
      axis: the axes to average over; None means all.
      where: which entries count, bool, broadcastable to ``[...]``; the others may
        hold NaN and get no gradient.

    Returns:
      The mean, at least float32; 0 where nothing counts.

    Raises:
      TypeError: if ``values`` is not floating or complex, or ``where`` not bool.
      ValueError: if ``where`` does not broadcast to the shape of ``values``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> x = jnp.array([1.0, jnp.nan, 3.0])
      >>> print(ops.masked_mean(x, where=jnp.array([True, False, True])))
      2.0
    """
    (values,) = checks.inexact(values=values)
    mask = jnp.broadcast_to(jnp.asarray(True), values.shape)
    if where is not None:
        mask = checks.mask("where", where, values.shape)
    total = masked_sum(values, axis=axis, where=mask)
    count = jnp.sum(mask, axis=axis, dtype=jnp.int32).astype(total.real.dtype)
    return total / jnp.maximum(count, 1).astype(total.dtype)


@jit()
def safe_divide(
    numerator: ArrayLike, denominator: ArrayLike, *, fill: ArrayLike = 0.0
) -> jax.Array:
    r"""Divides, and gives ``fill`` with a zero gradient where the divisor is zero.

    .. math:: y_i = x_i / z_i \text{ if } z_i \ne 0 \text{ else } \mathrm{fill}

    Args:
      numerator: floating or complex array, shape ``[...]``.
      denominator: floating or complex array, broadcastable with ``numerator``.
      fill: the value where ``denominator`` is exactly 0, a scalar.

    Returns:
      The quotient in the promoted dtype and shape.

    Raises:
      TypeError: if an argument is not floating or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> print(ops.safe_divide(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
      [0.  0.5]
    """
    numerator, denominator = checks.inexact(
        numerator=numerator, denominator=denominator
    )
    dtype = promoted_dtype(numerator, denominator)
    numerator, denominator = jnp.broadcast_arrays(
        numerator.astype(dtype), denominator.astype(dtype)
    )
    nonzero = denominator != 0
    quotient = numerator / masked_fill(denominator, nonzero, fill=1.0)
    return masked_fill(quotient, nonzero, fill=fill)
