"""Kernels of infinitely wide convolutional ReLU networks."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._relu_kernel import NetworkKernels, relu_kernels
from jaxkit.distillation._tiles import tiled
from jaxkit.typing import ArrayLike

__all__ = ["conv_nngp_ntk"]

_LAYERS = ("conv", "relu", "avg_pool", "flatten", "global_avg_pool", "dense")
_READOUTS = ("flatten", "global_avg_pool")
_DEFAULT = ("conv", "relu", "conv", "relu", "flatten", "dense")


class _Covariances(NamedTuple):
    """Kernels between the pixels of two sets of images, and of each image with itself.

    Pixels are indexed by the last axes: ``h, w`` of both images alike, ``h, w, h', w'``
    of all pairs, or none once the image is read out.
    """

    kernels: NetworkKernels
    x: jax.Array
    y: jax.Array
    pixel_axes: int

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "_Covariances":
        kernels = NetworkKernels(*(function(k) for k in self.kernels))
        return self._replace(kernels=kernels, x=function(self.x), y=function(self.y))


@jit(static_argnames=("layers", "tile_size"))
def conv_nngp_ntk(
    x: ArrayLike,
    y: ArrayLike,
    *,
    layers: Sequence[str] = _DEFAULT,
    weight_variance: ArrayLike = 2.0,
    bias_variance: ArrayLike = 0.01,
    tile_size: int | None = None,
) -> NetworkKernels:
    r"""Computes both kernels of an infinitely wide convolutional ReLU network.

    Kernels live on pairs of pixels. A 3x3 convolution with zero padding averages over
    the nine joint shifts of both pixels,

    .. math:: K'_{u u'} = w\, \tfrac19 \sum_{s} K_{u+s, u'+s} + b, \qquad
        \Theta' = K' + w\, \tfrac19 \sum_s \Theta_{u+s, u'+s},

    a 2x2 average pool over the blocks of both; a ReLU acts on each pair as in
    :func:`fc_nngp_ntk`. Networks that only flatten need the pairs of equal pixels alone.
    With pooling a pair of images costs the SQUARE of its number of pixels: 4,096 numbers
    at 8x8, a million at 32x32. Choose ``tile_size`` by that.

    Args:
      x: images, shape ``[n, height, width, channels]``.
      y: images, shape ``[m, height, width, channels]``.
      layers: the network, a tuple of ``"conv"``, ``"relu"``, ``"avg_pool"`` (drops an odd
        last row or column), ``"flatten"``, ``"global_avg_pool"``, ``"dense"``.
      weight_variance: ``w``; each weight has this variance over the number of inputs.
      bias_variance: ``b``.
      tile_size: how many images of ``x`` and of ``y`` are computed at a time, None for
        all; the gradient then computes each tile again.

    Returns:
      The :class:`NetworkKernels`, each of shape ``[n, m]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty, ``layers`` is no network, or pooling
        leaves no pixel.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x, y = jnp.ones((2, 4, 4, 1)), jnp.ones((3, 4, 4, 1))
      >>> layers = ("conv", "relu", "avg_pool", "global_avg_pool", "dense")
      >>> print(distillation.conv_nngp_ntk(x, y, layers=layers).ntk.shape)
      (2, 3)

    References:
      Novak et al., *Bayesian Deep Convolutional Networks with Many Channels are Gaussian
      Processes*, ICLR 2019.
      Arora et al., *On Exact Computation with an Infinitely Wide Neural Net*, NeurIPS
      2019.
    """
    x, y, weight, bias = checks.floating(
        x=x, y=y, weight_variance=weight_variance, bias_variance=bias_variance
    )
    _check_images(x, y)
    _check_layers(tuple(layers))
    dtype = accumulation_dtype(x, y)
    x, y, weight, bias = (a.astype(dtype) for a in (x, y, weight, bias))
    kernel = functools.partial(
        _conv_network, layers=tuple(layers), weight=weight, bias=bias
    )
    return tiled(kernel, x, y, tile_size)


def _check_images(x: jax.Array, y: jax.Array) -> None:
    for name, array in (("x", x), ("y", y)):
        if array.ndim != 4:
            raise ValueError(f"`{name}` must have 4 axes, got shape {array.shape}.")
        for axis in range(4):
            checks.axis_size(name, array, axis, 1)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            "`x` and `y` must hold images of one shape, "
            f"got {x.shape[1:]} and {y.shape[1:]}."
        )


def _check_layers(layers: tuple[str, ...]) -> None:
    """Refuses what is no network, or has no Gaussian limit."""
    pixels, normal = True, False
    for index, layer in enumerate(layers):
        checks.one_of(f"layers[{index}]", layer, _LAYERS)
        if layer != "relu" and (layer == "dense") == pixels:
            side = "after" if layer == "dense" else "before"
            raise ValueError(
                f'`layers` must have {layer!r} {side} "flatten" or "global_avg_pool", '
                f"got {layers}."
            )
        # Only a sum over many channels makes what a ReLU receives normal, and only the
        # kernel of single units, not their mean over flattened pixels, passes through.
        if layer == "relu" and not normal:
            raise ValueError(
                '`layers` must have a "conv" or "dense" before each "relu", after the '
                f'last "relu" or "flatten", got {layers}.'
            )
        pixels = pixels and layer not in _READOUTS
        normal = layer in ("conv", "dense") or (
            normal and layer not in ("relu", "flatten")
        )
    if pixels:
        raise ValueError(
            f'`layers` must contain "flatten" or "global_avg_pool", got {layers}.'
        )


def _conv_network(
    x: jax.Array,
    y: jax.Array,
    *,
    layers: tuple[str, ...],
    weight: jax.Array,
    bias: jax.Array,
) -> NetworkKernels:
    pools = ("avg_pool", "global_avg_pool")
    state = _inputs(x, y, all_pairs=any(layer in pools for layer in layers))
    for layer in layers:
        if layer == "relu":
            state = _relu(state)
        elif layer in ("conv", "dense"):
            if layer == "conv":
                state = state.map(functools.partial(_patch_mean, state.pixel_axes))
            state = _linear(state, weight, bias)
        elif layer == "avg_pool":
            state = state.map(_pool)
        else:
            state = _read_out(state, layer)
    return state.kernels


def _inputs(x: jax.Array, y: jax.Array, *, all_pairs: bool) -> _Covariances:
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    channels = x.shape[-1]
    if all_pairs:
        nngp = product("nhwc,muvc->nmhwuv", x, y)
        own = [product("nhwc,nuvc->nhwuv", a, a) for a in (x, y)]
    else:
        nngp = product("nhwc,mhwc->nmhw", x, y)
        own = [jnp.sum(jnp.square(a), axis=-1) for a in (x, y)]
    nngp, *own = (k / channels for k in (nngp, *own))
    # No layer, no weights: the second kernel begins at 0.
    kernels = NetworkKernels(nngp, jnp.zeros_like(nngp))
    return _Covariances(kernels, *own, pixel_axes=4 if all_pairs else 2)


def _linear(state: _Covariances, weight: jax.Array, bias: jax.Array) -> _Covariances:
    affine = lambda covariance: weight * covariance + bias
    nngp = affine(state.kernels.nngp)
    kernels = NetworkKernels(nngp, nngp + weight * state.kernels.ntk)
    return state._replace(kernels=kernels, x=affine(state.x), y=affine(state.y))


def _patch_mean(pixel_axes: int, k: jax.Array) -> jax.Array:
    """Averages over the nine joint shifts; what leaves the image counts as 0."""
    for axis in (-2, -1):
        axes = range(axis, -pixel_axes - 1, -2)
        padding = [(0, 0)] * k.ndim
        for a in axes:
            padding[a] = (1, 1)
        padded = jnp.pad(k, padding)
        shifted = []
        for start in range(3):
            window = padded
            for a in axes:
                window = jax.lax.slice_in_dim(
                    window, start, start + k.shape[a], axis=a % k.ndim
                )
            shifted.append(window)
        k = (shifted[0] + shifted[1] + shifted[2]) / 3
    return k


def _pool(k: jax.Array) -> jax.Array:
    """Averages over the 2x2 blocks of both pixels."""
    for axis in (-4, -3, -2, -1):
        axis %= k.ndim
        size = k.shape[axis] // 2
        if size == 0:
            raise ValueError('`layers` pool images of one pixel: drop an "avg_pool".')
        even, odd = (
            jax.lax.slice_in_dim(k, start, 2 * size, stride=2, axis=axis)
            for start in (0, 1)
        )
        k = (even + odd) / 2
    return k


def _read_out(state: _Covariances, layer: str) -> _Covariances:
    axes = tuple(range(-state.pixel_axes, 0))
    if layer == "flatten" and state.pixel_axes == 4:
        # Each pixel has weights of its own, so it meets only itself.
        state, axes = state.map(_equal_pixels), (-2, -1)
    return state.map(lambda k: jnp.mean(k, axis=axes))._replace(pixel_axes=0)


def _equal_pixels(k: jax.Array) -> jax.Array:
    return jnp.einsum("...hwhw->...hw", k)


def _relu(state: _Covariances) -> _Covariances:
    all_pairs = state.pixel_axes == 4
    own = (state.x, state.y)
    variances = [_equal_pixels(k) if all_pairs else k for k in own]
    pair = _pairs(variances[0][:, None], variances[1][None], all_pairs)
    kernels = relu_kernels(state.kernels, *pair)
    own_relu = lambda k, variance: (
        relu_kernels(NetworkKernels(k, k), *_pairs(variance, variance, True)).nngp
        if all_pairs
        else k / 2
    )
    x, y = (own_relu(k, variance) for k, variance in zip(own, variances, strict=True))
    return state._replace(kernels=kernels, x=x, y=y)


def _pairs(
    left: jax.Array, right: jax.Array, all_pairs: bool
) -> tuple[jax.Array, jax.Array]:
    """Brings two variances to one shape, all pairs of pixels or equal ones."""
    if all_pairs:
        left, right = left[..., None, None], right[..., None, None, :, :]
    left, right = jnp.broadcast_arrays(left, right)
    return left, right
