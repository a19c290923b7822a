"""Kernels of infinitely wide dense ReLU networks."""

import functools

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._relu_kernel import NetworkKernels, relu_kernels
from jaxkit.distillation._ridge import check_features
from jaxkit.distillation._solvers import matmul
from jaxkit.distillation._tiles import tiled
from jaxkit.typing import ArrayLike

__all__ = ["fc_nngp_ntk"]


@jit(static_argnames=("depth", "tile_size"))
def fc_nngp_ntk(
    x: ArrayLike,
    y: ArrayLike,
    *,
    depth: int = 1,
    weight_variance: ArrayLike = 2.0,
    bias_variance: ArrayLike = 0.01,
    tile_size: int | None = None,
) -> NetworkKernels:
    r"""Computes both kernels of an infinitely wide dense ReLU network.

    .. math::
        K_0 = \tfrac wp x^\top y + b, \quad \Theta_0 = K_0, \qquad
        K_{l+1} = w \kappa_1(K_l) + b, \quad
        \Theta_{l+1} = K_{l+1} + w\, \Theta_l\, \kappa_0(K_l)

    with :math:`\kappa_1 = \tfrac{1}{2\pi} \sqrt{K_{xx} K_{yy}}
    (\sin\theta + (\pi - \theta) \cos\theta)`, :math:`\kappa_0 = \tfrac{\pi -
    \theta}{2\pi}` and :math:`\cos\theta = K / \sqrt{K_{xx} K_{yy}}`. Values and
    gradients are finite at coincident points, where :math:`\Theta` has a kink.

    Args:
      x: inputs, shape ``[n, p]``.
      y: inputs, shape ``[m, p]``.
      depth: number of hidden layers; 0 gives a linear model.
      weight_variance: ``w``; each weight has this variance over the number of inputs.
      bias_variance: ``b``; 2 and 0.01 are the values of KIP.
      tile_size: how many rows and columns are computed at a time, None for all; the
        gradient then computes each tile again.

    Returns:
      The :class:`NetworkKernels`, each of shape ``[n, m]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, or ``depth`` is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])
      >>> nngp, ntk = distillation.fc_nngp_ntk(x, y, bias_variance=0.0)
      >>> print(f"{nngp[0, 0]:.4f} {ntk[0, 0]:.4f}")  # 1 / pi + 3 / 4, and 3 / 4 more
      1.0683 1.8183

    References:
      Cho and Saul, *Kernel Methods for Deep Learning*, NeurIPS 2009.
      Jacot et al., *Neural Tangent Kernel*, NeurIPS 2018.
      Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021.
    """
    x, y, weight, bias = checks.floating(
        x=x, y=y, weight_variance=weight_variance, bias_variance=bias_variance
    )
    check_features(x=x, y=y)
    checks.at_least("depth", depth, 0)
    dtype = accumulation_dtype(x, y)
    x, y, weight, bias = (a.astype(dtype) for a in (x, y, weight, bias))
    kernel = functools.partial(_dense_network, depth=depth, weight=weight, bias=bias)
    return tiled(kernel, x, y, tile_size)


def _dense_network(
    x: jax.Array, y: jax.Array, *, depth: int, weight: jax.Array, bias: jax.Array
) -> NetworkKernels:
    linear = lambda covariance: weight * covariance + bias
    nngp = linear(matmul(x, y.T) / x.shape[1])
    variances = [linear(jnp.mean(jnp.square(a), axis=1)) for a in (x, y)]
    kernels = NetworkKernels(nngp, nngp)
    for _ in range(depth):
        pair = jnp.broadcast_arrays(variances[0][:, None], variances[1][None])
        nngp, ntk = relu_kernels(kernels, *pair)
        nngp = linear(nngp)
        kernels = NetworkKernels(nngp, nngp + weight * ntk)
        variances = [linear(variance / 2) for variance in variances]
    return kernels
