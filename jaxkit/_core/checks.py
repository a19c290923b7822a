"""Checks of shapes, dtypes and static values, made at trace time.

Each function names the argument and says what came and what was expected.  Those that
look at values (`positive`, `within`) raise where the value is known and otherwise leave
a :func:`jax.experimental.checkify.debug_check`, which does nothing unless the caller
wraps the program with :func:`jax.experimental.checkify.checkify`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxkit.typing import ArrayLike

__all__ = [
    "at_least",
    "axis_size",
    "broadcastable",
    "floating",
    "inexact",
    "mask",
    "min_ndim",
    "one_of",
    "positive",
    "same_shape",
    "shape",
    "typed_key",
    "within",
]


def _as_array(name: str, value: ArrayLike) -> jax.Array:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be a number or an array, got {value!r}.")
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array, got {type(value).__name__}."
        ) from error
    # A Python integer such as `beta=1` means a real number; an integer ARRAY is
    # a mistake.  Inside jit only the weak type tells the two apart.
    is_scalar_literal = array.ndim == 0 and array.aval.weak_type
    if is_scalar_literal and jnp.issubdtype(array.dtype, jnp.integer):
        return array * 1.0
    return array


def floating(**arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Turns real inputs into a tuple of arrays, in the order given.

    Python integers become floats; integer, boolean and complex arrays are refused.
    """
    out = []
    for name, value in arrays.items():
        array = _as_array(name, value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"`{name}` must have a real floating dtype, got {array.dtype}."
            )
        out.append(array)
    return tuple(out)


def inexact(**arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Turns real or complex inputs into a tuple of arrays, in the order given."""
    out = []
    for name, value in arrays.items():
        array = _as_array(name, value)
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(
                f"`{name}` must have a floating or complex dtype, got {array.dtype}."
            )
        out.append(array)
    return tuple(out)


def same_shape(**arrays: jax.Array) -> None:
    """Raises unless all arrays have one shape."""
    shapes = [array.shape for array in arrays.values()]
    if any(s != shapes[0] for s in shapes):
        names = " and ".join(f"`{name}`" for name in arrays)
        got = " and ".join(str(s) for s in shapes)
        raise ValueError(f"{names} must have the same shape, got {got}.")


def shape(name: str, array: jax.Array, expected: Sequence[int | None]) -> None:
    """Raises unless the trailing axes of `array` are `expected` (None fits any size).

    Leading axes are free when `expected` is shorter than the array's rank.
    """
    tail = array.shape[array.ndim - len(expected) :] if expected else ()
    fits = array.ndim >= len(expected) and all(
        want is None or have == want for have, want in zip(tail, expected, strict=True)
    )
    if not fits:
        want = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"`{name}` must have shape (..., {want}), got {array.shape}.")


def broadcastable(name: str, array: jax.Array, target: Sequence[int]) -> None:
    """Raises unless `array` broadcasts to the shape `target`."""
    try:
        fits = np.broadcast_shapes(array.shape, tuple(target)) == tuple(target)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`{name}` must broadcast to shape {tuple(target)}, got {array.shape}."
        )


def mask(name: str, where: ArrayLike | None, target: Sequence[int]) -> jax.Array:
    """Turns a mask, None for everything, into a bool array of the shape `target`."""
    array = jnp.asarray(True if where is None else where)
    if array.dtype != jnp.bool_:
        raise TypeError(f"`{name}` must have dtype bool, got {array.dtype}.")
    broadcastable(name, array, target)
    # Explicit, so that it also works where implicit rank promotion raises.
    return jnp.broadcast_to(array, tuple(target))


def min_ndim(name: str, array: jax.Array, minimum: int) -> None:
    """Raises unless `array` has at least `minimum` axes."""
    if array.ndim < minimum:
        raise ValueError(
            f"`{name}` must have at least {minimum} axes, got shape {array.shape}."
        )


def axis_size(name: str, array: jax.Array, axis: int, minimum: int) -> None:
    """Raises unless axis `axis` of `array` has at least `minimum` entries."""
    if array.ndim < max(axis + 1, -axis) or array.shape[axis] < minimum:
        raise ValueError(
            f"`{name}` must have at least {minimum} entries along axis {axis}, "
            f"got shape {array.shape}."
        )


def at_least(name: str, value: int, minimum: int) -> None:
    """Raises unless the static integer `value` is at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def one_of(name: str, value: object, options: Sequence[str]) -> None:
    """Raises unless the static string `value` is one of `options`."""
    if value not in options:
        names = ", ".join(repr(option) for option in options)
        raise ValueError(f"`{name}` must be one of {names}, got {value!r}.")


def typed_key(key: jax.Array) -> None:
    """Raises unless `key` is a single typed random key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of dtype {dtype}"
        raise TypeError(f"`key` must be a typed key made by jax.random.key, got {got}.")
    if key.ndim:
        raise ValueError(f"`key` must be a single key, got shape {key.shape}.")


def positive(**values: ArrayLike) -> None:
    """Raises on a known value that is not positive; offers others to ``checkify``."""
    for name, value in values.items():
        within(name, value, low=0.0, low_open=True)


def within(
    name: str,
    value: ArrayLike,
    *,
    low: float,
    high: float = float("inf"),
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raises on a known value out of an interval; offers others to ``checkify``."""
    words = _interval_words(low, high, low_open, high_open)
    inside = lambda x: (
        ((x > low) if low_open else (x >= low))
        & ((x < high) if high_open else (x <= high))
    )
    if isinstance(value, int | float):
        # A default, seen at trace time. It matters: a program with a debug_check leaves
        # the fast path of dispatch, which costs several times the loss of a batch.
        if not inside(value):
            raise ValueError(f"`{name}` must {words}, got {value:g}.")
        return
    (array,) = floating(**{name: value})
    if not array.size:
        return
    lowest, highest = jnp.min(array), jnp.max(array)
    if isinstance(array, jax.core.Tracer):
        checkify.debug_check(
            jnp.all(inside(array)),
            f"`{name}` must {words}, got {{low}}{' to {high}' * (high < jnp.inf)}.",
            low=lowest,
            high=highest,
        )
    elif not bool(jnp.all(inside(array))):
        got = f"{float(lowest):g}" + f" to {float(highest):g}" * (high < jnp.inf)
        raise ValueError(f"`{name}` must {words}, got {got}.")


def _interval_words(low: float, high: float, low_open: bool, high_open: bool) -> str:
    if high == float("inf"):
        return "be positive" if low_open and low == 0 else f"be at least {low:g}"
    left, right = "(" if low_open else "[", ")" if high_open else "]"
    return f"lie in {left}{low:g}, {high:g}{right}"
