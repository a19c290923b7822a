"""Operations whose backward pass also counts the pair Gram of their parameter.

Each takes an array of zeros, the accumulator, that all of them share. Forward ignores
it; the backward rule gives it the operation's part of the pair Gram as a cotangent.
JAX adds the cotangents of a shared input, so the gradient with respect to the
accumulator is the pair Gram of the whole model, and no gradient of a single example
is ever kept.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.lax import PrecisionLike

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype, promoted_dtype
from jaxkit._core.jit import jit
from jaxkit.entanglement._pair_products import (
    pair_gradients,
    per_example,
    place_products,
    row_products,
    token_products,
    vector_products,
)
from jaxkit.ops import masked_fill, match_varying
from jaxkit.typing import ArrayLike

__all__ = [
    "COUNTED",
    "accumulator_bias",
    "accumulator_dense",
    "accumulator_embedding",
    "accumulator_positions",
    "accumulator_scale",
]

COUNTED = "jaxkit.entanglement.counted"
"""Name in the program of a parameter that reaches an operation with an accumulator."""

_PRODUCT_COST = 24
"""Time of a multiplication in an inner product of two gradients, which are read from
memory, over that of one in a matrix product, which mostly finds its factors in cache."""

Operation = Callable[[jax.Array, jax.Array], jax.Array]


@jit(static_argnames=("precision",))
def accumulator_dense(
    x: ArrayLike,
    weight: ArrayLike,
    accumulator: ArrayLike | None = None,
    *,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Multiplies by a weight, and counts its part of the pair Gram.

    .. math:: y = x W, \qquad \langle g_i, g_j \rangle = \sum_{t, s}
       (x_i[t] \cdot x_j[s]) (\delta_i[t] \cdot \delta_j[s])
       = \langle x_i^\top \delta_i, x_j^\top \delta_j \rangle

    with :math:`\delta` the cotangent of ``y``. The form with fewer operations is
    taken; the second makes the gradient of one pair at a time and adds them up to
    that of the weight, which then costs nothing more. Products of the Gram are at
    full precision.

    Args:
      x: input, the ``B`` chosen sequences first and the rejected ones after them,
        shape ``[2B, ..., in]``.
      weight: the weight, shape ``[in, out]``.
      accumulator: zeros of shape ``[3, B]``, the same for every operation; None
        makes it an ordinary product with every derivative.
      precision: precision of the product and of its gradients.
      where: which places count, bool, broadcastable to ``[2B, ...]``; the others may
        hold NaN and give 0.

    Returns:
      The product, shape ``[2B, ..., out]``.

    Raises:
      ValueError: if the shapes are not those above.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
      >>> def total(accumulator):
      ...     return entanglement.accumulator_dense(
      ...         x, jnp.ones((2, 1)), accumulator
      ...     ).sum()
      >>> print(jax.grad(total)(jnp.zeros((3, 1))).T)
      [[1. 1. 2.]]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (the inner products).
    """
    x, weight = checks.floating(x=x, weight=weight)
    checks.min_ndim("x", x, 1)
    if weight.ndim != 2 or weight.shape[0] != x.shape[-1]:
        raise ValueError(
            f"`weight` must have shape ({x.shape[-1]}, any), the features of `x` "
            f"first, got {weight.shape}."
        )
    multiply = functools.partial(jnp.matmul, precision=precision)
    if accumulator is None:
        return _masked(multiply, x, weight, where)
    tokens = math.prod(x.shape[1:-1])
    inner, outer = weight.shape
    if tokens**2 * (inner + outer) < _PRODUCT_COST * inner * outer:
        counted = _counted(multiply, token_products)
    else:
        counted = _counted_by_pairs(multiply)
    return _masked(counted, x, weight, where, accumulator)


@jit()
def accumulator_bias(
    x: ArrayLike,
    bias: ArrayLike,
    accumulator: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Adds a bias, and counts its part of the pair Gram.

    .. math:: y = x + b, \qquad \langle g_i, g_j \rangle =
       \Bigl(\sum_t \delta_i[t]\Bigr) \cdot \Bigl(\sum_t \delta_j[t]\Bigr)

    Args:
      x: input, chosen first, shape ``[2B, ..., D]``.
      bias: the bias, shape ``[D]``.
      accumulator: zeros of shape ``[3, B]``, the same for every operation; None
        makes it an ordinary sum.
      where: which places count, bool, broadcastable to ``[2B, ...]``; the others may
        hold NaN and give 0.

    Returns:
      The sum, of the shape of ``x``.

    Raises:
      ValueError: if the shapes are not those above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> print(entanglement.accumulator_bias(jnp.ones((2, 3)), jnp.arange(3.0)))
      [[1. 2. 3.]
       [1. 2. 3.]]
    """
    x, bias = _with_vector(x, "bias", bias)
    if accumulator is None:
        return _masked(_add, x, bias, where)
    counted = _counted(_add, lambda x, g: vector_products(per_example(g)))
    return _masked(counted, x, bias, where, accumulator)


@jit()
def accumulator_scale(
    x: ArrayLike,
    scale: ArrayLike,
    accumulator: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Multiplies by a scale per feature, and counts its part of the pair Gram.

    .. math:: y = x \odot s, \qquad \langle g_i, g_j \rangle =
       \Bigl(\sum_t x_i[t] \odot \delta_i[t]\Bigr) \cdot
       \Bigl(\sum_t x_j[t] \odot \delta_j[t]\Bigr)

    Args:
      x: input, chosen first, shape ``[2B, ..., D]``.
      scale: the scale, shape ``[D]``.
      accumulator: zeros of shape ``[3, B]``, the same for every operation; None
        makes it an ordinary product.
      where: which places count, bool, broadcastable to ``[2B, ...]``; the others may
        hold NaN and give 0.

    Returns:
      The product, of the shape of ``x``.

    Raises:
      ValueError: if the shapes are not those above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> print(entanglement.accumulator_scale(jnp.ones((2, 3)), jnp.arange(3.0)))
      [[0. 1. 2.]
       [0. 1. 2.]]
    """
    x, scale = _with_vector(x, "scale", scale)
    if accumulator is None:
        return _masked(_multiply, x, scale, where)

    def products(x: jax.Array, g: jax.Array) -> jax.Array:
        wide = accumulation_dtype(x)
        return vector_products(per_example(x.astype(wide) * g.astype(wide)))

    return _masked(_counted(_multiply, products), x, scale, where, accumulator)


@jit()
def accumulator_embedding(
    tokens: ArrayLike,
    table: ArrayLike,
    accumulator: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Looks tokens up in a table, and counts its part of the pair Gram.

    .. math:: y[t] = E_{\mathrm{tok}[t]}, \qquad \langle g_i, g_j \rangle =
       \sum_{t, s} [\mathrm{tok}_i[t] = \mathrm{tok}_j[s]] \,
       \delta_i[t] \cdot \delta_j[s]

    Args:
      tokens: integer tokens, chosen first, shape ``[2B, T]``; those outside the
        table read its nearest row.
      table: the table, shape ``[V, D]``.
      accumulator: zeros of shape ``[3, B]``, the same for every operation; None
        makes it an ordinary look-up.
      where: which places count, bool, broadcastable to ``[2B, T]``; the others give
        0, whatever row they name.

    Returns:
      The rows, shape ``[2B, T, D]``.

    Raises:
      TypeError: if ``tokens`` are not integers.
      ValueError: if the shapes are not those above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> table = jnp.arange(3.0)[:, None]
      >>> print(entanglement.accumulator_embedding(jnp.array([[2, 0]]), table)[..., 0])
      [[2. 0.]]
    """
    (table,) = checks.floating(table=table)
    rows = _rows("tokens", tokens, table)
    look_up = lambda rows, table: table[rows]
    if accumulator is None:
        return masked_fill(look_up(rows, table), _last_axis(where))
    _check_tokens("tokens", rows, 2)
    counted = _counted(look_up, row_products)
    (accumulator,) = _check_accumulator(rows, accumulator)
    table = checkpoint_name(match_varying(table, rows), COUNTED)
    return masked_fill(counted(rows, table, accumulator), _last_axis(where))


@jit()
def accumulator_positions(
    x: ArrayLike,
    table: ArrayLike,
    accumulator: ArrayLike | None = None,
    *,
    positions: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Adds learned positions, and counts their part of the pair Gram.

    .. math:: y[t] = x[t] + P_t, \qquad \langle g_i, g_j \rangle =
       \sum_t \delta_i[t] \cdot \delta_j[t]

    Args:
      x: input, chosen first, shape ``[2B, T, D]``.
      table: a row for each position, shape ``[N, D]`` with ``N`` at least ``T``.
      accumulator: zeros of shape ``[3, B]``, the same for every operation; None
        makes it an ordinary sum.
      positions: integer position of each token, shape ``[2B, T]``, read as
        :func:`accumulator_embedding` reads tokens; None counts from 0.
      where: which places count, bool, broadcastable to ``[2B, T]``; the others may
        hold NaN and give 0.

    Returns:
      The sum, of the shape of ``x``.

    Raises:
      TypeError: if ``positions`` are not integers.
      ValueError: if the shapes are not those above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> table = jnp.arange(3.0)[:, None]
      >>> print(entanglement.accumulator_positions(jnp.ones((1, 2, 1)), table)[..., 0])
      [[1. 2.]]
    """
    x, table = checks.floating(x=x, table=table)
    checks.min_ndim("x", x, 2)
    checks.shape("table", table, (None, x.shape[-1]))
    if positions is not None:
        rows = accumulator_embedding(positions, table, accumulator, where=where)
        if rows.shape != x.shape:
            raise ValueError(
                f"`positions` must have shape {x.shape[:-1]}, got {rows.shape[:-1]}."
            )
        dtype = promoted_dtype(x, rows)
        return masked_fill(x.astype(dtype), _last_axis(where)) + rows.astype(dtype)
    if table.shape[0] < x.shape[-2]:
        raise ValueError(
            f"`table` must have at least {x.shape[-2]} rows, got {table.shape[0]}."
        )
    if accumulator is None:
        return _masked(_add_rows, x, table, where)
    _check_tokens("x", x, 3)
    counted = _counted(_add_rows, lambda x, g: place_products(g))
    return _masked(counted, x, table, where, accumulator)


def _add(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + jnp.broadcast_to(bias, x.shape)


def _multiply(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jnp.broadcast_to(scale, x.shape)


def _add_rows(x: jax.Array, table: jax.Array) -> jax.Array:
    return _add(x, table[: x.shape[-2]])


def _last_axis(where: ArrayLike | None) -> jax.Array | None:
    return None if where is None else jnp.asarray(where)[..., None]


def _masked(
    operation: Callable[..., jax.Array],
    x: jax.Array,
    param: jax.Array,
    where: ArrayLike | None,
    accumulator: ArrayLike | None = None,
) -> jax.Array:
    """Applies an operation to the places that count, in the promoted dtype."""
    dtype = promoted_dtype(x, param)
    # Filled inputs and cotangents keep the masked places out of the Gram as well.
    x, param = masked_fill(x.astype(dtype), _last_axis(where)), param.astype(dtype)
    if accumulator is None:
        return masked_fill(operation(x, param), _last_axis(where))
    (accumulator,) = _check_accumulator(x, accumulator)
    # Each device has its own cotangent: shard_map must add them up by itself.
    param = checkpoint_name(match_varying(param, x), COUNTED)
    return masked_fill(operation(x, param, accumulator), _last_axis(where))


def _counted(
    operation: Operation, products: Callable[[jax.Array, jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Gives the accumulator ``products(x, cotangent)`` in the backward pass."""

    @jax.custom_vjp
    def counted(x: jax.Array, param: jax.Array, accumulator: jax.Array) -> jax.Array:
        return operation(x, param)

    def forward(x: jax.Array, param: jax.Array, accumulator: jax.Array) -> tuple:
        return operation(x, param), (x, param, accumulator)

    def backward(kept: tuple, g: jax.Array) -> tuple:
        x, param, accumulator = kept
        _, pull = jax.vjp(operation, x, param)
        return *pull(g), products(x, g).astype(accumulator.dtype)

    counted.defvjp(forward, backward)
    return counted


def _counted_by_pairs(
    operation: Operation,
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The dense operation by way of the gradients of one pair at a time."""

    @jax.custom_vjp
    def counted(x: jax.Array, weight: jax.Array, accumulator: jax.Array) -> jax.Array:
        return operation(x, weight)

    def forward(x: jax.Array, weight: jax.Array, accumulator: jax.Array) -> tuple:
        return operation(x, weight), (x, weight, accumulator)

    def backward(kept: tuple, g: jax.Array) -> tuple:
        x, weight, accumulator = kept
        _, pull = jax.vjp(lambda x: operation(x, weight), x)
        total, products = pair_gradients(x, g)
        return (
            *pull(g),
            total.astype(weight.dtype),
            products.astype(accumulator.dtype),
        )

    counted.defvjp(forward, backward)
    return counted


def _with_vector(
    x: ArrayLike, name: str, vector: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    x, vector = checks.floating(**{"x": x, name: vector})
    checks.min_ndim("x", x, 1)
    if vector.shape != x.shape[-1:]:
        raise ValueError(
            f"`{name}` must have shape {x.shape[-1:]}, the features of `x`, "
            f"got {vector.shape}."
        )
    return x, vector


def _rows(name: str, tokens: ArrayLike, table: jax.Array) -> jax.Array:
    rows = jnp.asarray(tokens)
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {rows.dtype}.")
    if table.ndim != 2:
        raise ValueError(
            f"`table` must have shape (rows, features), got {table.shape}."
        )
    return jnp.clip(rows, 0, table.shape[0] - 1)


def _check_tokens(name: str, tokens: jax.Array, ndim: int) -> None:
    if tokens.ndim != ndim:
        wanted = ("2B", "T", "D")[:ndim]
        raise ValueError(
            f"`{name}` must have shape ({', '.join(wanted)}) with an accumulator, "
            f"got {tokens.shape}."
        )


def _check_accumulator(x: jax.Array, accumulator: ArrayLike) -> tuple[jax.Array]:
    (accumulator,) = checks.floating(accumulator=accumulator)
    if x.ndim < 2 or accumulator.shape != (3, x.shape[0] // 2) or x.shape[0] % 2:
        raise ValueError(
            f"`accumulator` must have shape (3, B) where the input has 2B sequences, "
            f"got {accumulator.shape} and an input of shape {x.shape}."
        )
    return (accumulator,)
