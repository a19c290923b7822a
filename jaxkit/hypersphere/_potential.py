"""The potential whose gradient is that of SFace, in closed form.

The pull of a class on its own samples is the slope of the integral of
``sigmoid(k (t - a)) sin t`` from 0 to the angle. Expanding the logistic function in
powers of ``exp(-k |t - a|)`` on either side of ``a`` gives an alternating series, which
is summed with fixed weights. The push is the same function of the supplement angle.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkit.typing import ScalarLike

__all__ = ["gated_potential", "gated_potential_of_cosine", "polar_angle"]

_NUM_TERMS = 14


def _acceleration_weights(num_terms: int) -> tuple[float, ...]:
    """Weights with which the first terms sum an alternating series, signs included."""
    root = (3.0 + 8.0**0.5) ** num_terms
    total = (root + 1.0 / root) / 2.0
    weights, partial, step = [], -total, -1.0
    for j in range(num_terms):
        partial = step - partial
        weights.append(partial / total)
        step *= (j + num_terms) * (j - num_terms) / ((j + 0.5) * (j + 1.0))
    return tuple(weights)


_WEIGHTS = _acceleration_weights(_NUM_TERMS)


def _alternating_sums(
    distance: ScalarLike, sharpness: ScalarLike
) -> tuple[jax.Array, jax.Array]:
    """Sums (m k, 1) exp(-m k distance) / (m^2 k^2 + 1) with alternating signs."""
    decay = jnp.exp(-sharpness * distance)
    with_sine, with_cosine = jnp.zeros_like(decay), jnp.zeros_like(decay)
    for m in range(_NUM_TERMS, 0, -1):
        frequency = m * sharpness
        coefficient = _WEIGHTS[m - 1] / (frequency * frequency + 1.0)
        with_sine = (with_sine + coefficient * frequency) * decay
        with_cosine = (with_cosine + coefficient) * decay
    return with_sine, with_cosine


def _closed_form(
    cos: jax.Array, theta: jax.Array, sharpness: ScalarLike, angle: ScalarLike
) -> jax.Array:
    """Integrates sigmoid(k (t - a)) sin t from 0 to theta."""
    below = theta <= angle
    with_sine, with_cosine = _alternating_sums(
        jnp.where(below, angle - theta, theta - angle), sharpness
    )
    sine_part, cosine_part = with_sine * jnp.sin(theta), with_cosine * cos
    _, at_zero = _alternating_sums(angle, sharpness)
    ratio = jnp.pi / sharpness
    # ratio / sinh(ratio), which does not overflow for a soft gate.
    kappa = 2.0 * ratio * jnp.exp(-ratio) / -jnp.expm1(-2.0 * ratio)
    past = kappa * jnp.cos(angle) - cos + sine_part + cosine_part
    return jnp.where(below, sine_part - cosine_part, past) + at_zero


@jax.custom_jvp
def gated_potential(
    cos: jax.Array, theta: jax.Array, sharpness: ScalarLike, angle: ScalarLike
) -> jax.Array:
    """Gives the potential of a pull that a gate opens past an angle.

    Its slope in ``cos`` is exactly ``-sigmoid(sharpness * (theta - angle))``; ``theta``
    is the angle of that cosine, and moves the slope but not the value.
    """
    return _closed_form(cos, theta, sharpness, angle)


def _potential_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    cos, theta, sharpness, angle = primals
    cos_dot, _, sharpness_dot, angle_dot = tangents
    value = gated_potential(cos, theta, sharpness, angle)
    out = jnp.zeros_like(value)
    is_zero = lambda tangent: isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    if not is_zero(cos_dot):
        out -= jax.nn.sigmoid(sharpness * (theta - angle)) * cos_dot
    if not (is_zero(sharpness_dot) and is_zero(angle_dot)):
        dense = lambda tangent, like: (
            jnp.zeros_like(like) if is_zero(tangent) else tangent
        )
        _, moved = jax.jvp(
            lambda k, a: _closed_form(cos, theta, k, a),
            (sharpness, angle),
            (dense(sharpness_dot, sharpness), dense(angle_dot, angle)),
        )
        out += moved
    return value, out


gated_potential.defjvp(_potential_jvp, symbolic_zeros=True)


@jax.custom_jvp
def polar_angle(cos: jax.Array) -> jax.Array:
    """Gives the angle of a cosine, clipped to [-1, 1], with a bounded slope."""
    return jnp.arccos(jnp.clip(cos, -1.0, 1.0))


@polar_angle.defjvp
def _polar_angle_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (cos,), (cos_dot,) = primals, tangents
    # The slope only reaches gates, which are flat at the poles.
    sin = jnp.sqrt(jnp.maximum((1.0 - cos) * (1.0 + cos), 1e-12))
    return polar_angle(cos), -cos_dot / sin


def gated_potential_of_cosine(
    cos: jax.Array, sharpness: ScalarLike, angle: ScalarLike
) -> jax.Array:
    """Gives :func:`gated_potential` of a cosine alone."""
    return gated_potential(cos, polar_angle(cos), sharpness, angle)
