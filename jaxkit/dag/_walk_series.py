"""Series of matrix powers less their first term, without cancellation."""

import math

import jax
import jax.numpy as jnp

__all__ = ["expm1", "power_less_one"]

HIGHEST = jax.lax.Precision.HIGHEST

# exp overflows float64 before the norm needs more halvings than this.
_SQUARINGS = 12


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def expm1(matrix: jax.Array) -> jax.Array:
    """The exponential less the identity, to full relative precision.

    Everything is a sum of products of entries that are not negative, so nothing cancels:
    the trace is 0 exactly without cycles, and right to rounding for tiny ones.
    """
    norm = jnp.max(jnp.sum(jnp.abs(jax.lax.stop_gradient(matrix)), axis=0))
    halvings = jnp.ceil(jnp.log2(jnp.maximum(2.0 * norm, 1.0)))
    halvings = jnp.clip(jnp.nan_to_num(halvings), 0, _SQUARINGS)
    small = matrix * jnp.exp2(-halvings)
    out = _taylor(small)

    def double(out: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        grown = lambda e: 2.0 * e + _times(e, e)
        return jax.lax.cond(index < halvings, grown, lambda e: e, out), None

    steps = jnp.arange(_SQUARINGS).astype(matrix.dtype)
    return jax.lax.scan(double, out, steps)[0]


def _taylor(matrix: jax.Array) -> jax.Array:
    """The first 16 terms after the identity, in blocks of four powers."""
    second = _times(matrix, matrix)
    powers = (matrix, second, _times(second, matrix), _times(second, second))
    out = jnp.zeros_like(matrix)
    for block in (12, 8, 4, 0):
        out = _times(powers[3], out)
        for k, power in enumerate(powers):
            out = out + power / float(math.factorial(block + k + 1))
    return out


def power_less_one(matrix: jax.Array, exponent: int) -> jax.Array:
    r"""``(I + M)^k - I`` by squaring, without cancellation."""
    out, base = jnp.zeros_like(matrix), matrix
    while exponent:
        if exponent % 2:
            out = out + base + _times(out, base)
        exponent //= 2
        if exponent:
            base = 2.0 * base + _times(base, base)
    return out
