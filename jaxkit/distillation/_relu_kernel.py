"""What a ReLU does to the kernels of an infinitely wide network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["NetworkKernels", "relu_kernels"]


class NetworkKernels(NamedTuple):
    """The two kernels of an infinitely wide network, between all pairs of inputs.

    Attributes:
      nngp: covariance of the outputs over random weights, shape ``[n, m]``: training
        the last layer only is regression with this kernel.
      ntk: inner product of the gradients of the outputs with respect to all weights,
        shape ``[n, m]``: training all layers is regression with this one.
    """

    nngp: jax.Array
    ntk: jax.Array


def relu_kernels(
    kernels: NetworkKernels, variance_x: jax.Array, variance_y: jax.Array
) -> NetworkKernels:
    """Gives the kernels behind a ReLU; the variances have the shape of the kernels."""
    nngp, ntk = kernels
    # An input of variance 0 has the output 0.
    lively = (variance_x > 0) & (variance_y > 0)
    # One root at a time: the product of the variances, and the square of that of the
    # roots in the derivative of a quotient, leave float32 where the roots do not.
    root_x, root_y = (
        jnp.sqrt(jnp.where(lively, variance, 1.0))
        for variance in (variance_x, variance_y)
    )
    size = root_x * root_y
    cosine = jnp.where(lively, nngp, 0.0) / root_x / root_y
    angle, sine = _angle_and_sine(cosine)
    wedge = jnp.pi - angle
    nngp = size / (2 * jnp.pi) * (sine + wedge * cosine)
    return NetworkKernels(jnp.where(lively, nngp, 0.0), ntk * wedge / (2 * jnp.pi))


def _angle_and_sine(cosine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives both with derivative 0 at coincident points.

    The slopes are infinite there. In the first kernel they cancel; the second has a
    kink, whose one-sided slopes average to 0.
    """
    tolerance = 1e-6 if jnp.finfo(cosine.dtype).bits < 64 else 1e-12
    # Rounding puts the cosine of a point with itself a little off 1.
    same, opposite = cosine > 1 - tolerance, cosine < tolerance - 1
    edge = same | opposite
    inside = jnp.where(edge, 0.0, cosine)
    at_edge = jnp.where(opposite, jnp.pi, 0.0).astype(cosine.dtype)
    angle = jnp.where(edge, at_edge, jnp.arccos(inside))
    sine = jnp.where(edge, 0.0, jnp.sqrt((1 - inside) * (1 + inside)))
    return angle, sine
