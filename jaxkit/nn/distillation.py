"""Networks of the distillation system, and their form as pure functions."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import distillation
from jaxkit._core import checks
from jaxkit.typing import DTypeLike, Key, PyTree

__all__ = ["BarlowTwinsHead", "ConvNet", "ResNet18", "network_functions"]

Initializer: TypeAlias = jax.nn.initializers.Initializer

# Uniform within 1 / sqrt(fan_in).
_uniform_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_he_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def network_functions(
    make: Callable[[nnx.Rngs], Any],
) -> distillation.Network:
    """Turns a Flax module into the pure functions that distillation takes.

    Call it once and keep the result: compiled steps are found by its identity.

    Args:
      make: makes the module from random streams, for example
        ``lambda rngs: ConvNet(3, 32, 512, rngs=rngs)``. The module is called as
        ``module(images, train=...)``, has a method ``embed(images)``, and holds no
        variables but parameters and batch statistics.

    Returns:
      The functions; parameters and statistics are nested dicts of arrays.

    Raises:
      ValueError: if the module holds other variables, such as those of dropout.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> network = jaxkit.nn.network_functions(
      ...     lambda rngs: jaxkit.nn.ConvNet(1, 8, 5, widths=(4, 8), rngs=rngs))
      >>> params, batch_stats = jax.jit(network.init)(jax.random.key(0))
      >>> jax.jit(network.embed)(params, batch_stats, jnp.ones((3, 8, 8, 1))).shape
      (3, 32)
    """
    graphdef, _, _, rest = nnx.split(
        nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, nnx.BatchStat, ...
    )
    if jax.tree.leaves(rest):
        names = ", ".join(sorted(nnx.to_pure_dict(rest)))
        raise ValueError(
            f"`make` must give a module of parameters and batch statistics only, "
            f"got other variables in {names}."
        )

    def init(key: Key) -> tuple[PyTree, PyTree]:
        _, params, stats = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def embed(params: PyTree, batch_stats: PyTree, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, batch_stats).embed(images)

    def apply(
        params: PyTree, batch_stats: PyTree, images: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        module = nnx.merge(graphdef, params, batch_stats)
        outputs = module(images, train=train)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return distillation.Network(init, embed, apply)


class ConvNet(nnx.Module):
    r"""The plain convolutional network of the distillation literature.

    Blocks of a 3x3 convolution, a norm, a ReLU and the average over 2x2 pixels; then
    one linear map. A block halves the sides, rounding down.

    Args:
      in_channels: channels of the images.
      image_size: their side, or height and width.
      num_outputs: outputs of the linear map.
      widths: channels of each block. The paper takes (128, 256, 512) for 32 pixels,
        (64, 128, 256, 512) for 64 and (32, 64, 128, 256, 512) for 224.
      norm: ``"batch"``, ``"group"`` (of 4), ``"instance"`` or None.
      first_padding: padding of the first convolution; 3 enlarges images of one channel
        as in FRePo.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the convolutions and the linear map.
      kernel_init: initializer of the kernels; biases start at 0.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1, the blocks leave no pixel, or ``norm`` is
        unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> def features():
      ...     net = jaxkit.nn.ConvNet(3, 32, 10, rngs=nnx.Rngs(0))
      ...     return net.embed(jnp.ones((2, 32, 32, 3)))
      >>> nnx.eval_shape(features).shape
      (2, 8192)

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024; Zhao et al., *Dataset Condensation with Gradient Matching*, ICLR 2021.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        num_outputs: int,
        *,
        widths: Sequence[int] = (128, 256, 512),
        norm: str | None = "batch",
        first_padding: int = 1,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _uniform_init,
        rngs: nnx.Rngs,
    ):
        sizes = {"in_channels": in_channels, "num_outputs": num_outputs}
        sizes |= {f"widths[{i}]": size for i, size in enumerate(widths)}
        for name, size in sizes.items():
            checks.at_least(name, size, 1)
        checks.at_least("first_padding", first_padding, 0)
        if norm is not None:
            checks.one_of("norm", norm, ("batch", "group", "instance"))
        shape = (image_size,) * 2 if isinstance(image_size, int) else image_size
        grown = [side + 2 * (first_padding - 1) for side in shape]
        rows, columns = (side >> len(widths) for side in grown)
        if min(rows, columns) < 1:
            raise ValueError(
                f"`image_size` must leave a pixel after {len(widths)} halvings, got "
                f"{image_size}."
            )
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        kernels = {"precision": precision, "kernel_init": kernel_init}
        self.convs, self.norms = nnx.List([]), nnx.List([])
        channels = in_channels
        for index, features in enumerate(widths):
            padding = first_padding if index == 0 else 1
            self.convs.append(
                nnx.Conv(
                    channels, features, (3, 3), padding=padding, **kernels, **options
                )
            )
            if norm is not None:
                self.norms.append(_norm(norm, features, **options))
            channels = features
        self.linear = nnx.Linear(
            channels * rows * columns, num_outputs, **kernels, **options
        )

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to outputs ``[B, num_outputs]``.

        Args:
          images: a batch.
          train: whether batch norm uses and remembers the statistics of this batch.

        Returns:
          The outputs.
        """
        with jax.numpy_dtype_promotion("standard"):
            return self.linear(self._blocks(images, train))

    def embed(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to the flattened last block, what the linear map reads."""
        with jax.numpy_dtype_promotion("standard"):
            return self._blocks(images, train)

    def _blocks(self, x: jax.Array, train: bool) -> jax.Array:
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = _normalize(self.norms[index], x, train)
            x = _halve(jax.nn.relu(x))
        return x.reshape(x.shape[0], -1)


class ResNet18(nnx.Module):
    r"""The residual network of the self-supervised teacher.

    A 3x3 convolution without stride and without a pool after it, eight basic blocks of
    64, 128, 256 and 512 channels, and the mean over all pixels: 512 features. The
    padding of the first convolution is 2, so that 32 pixels become 34.

    Args:
      in_channels: channels of the images.
      num_outputs: outputs of a last linear map; None leaves the map out, and the
        outputs are the features.
      width: channels of the first stage, doubled in each of the next three.
      stem_padding: padding of the first convolution.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the convolutions.
      kernel_init: initializer of the convolutions.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> def features():
      ...     net = jaxkit.nn.ResNet18(rngs=nnx.Rngs(0))
      ...     return net(jnp.ones((2, 32, 32, 3)))
      >>> nnx.eval_shape(features).shape
      (2, 512)

    References:
      He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016; Lee et al.,
      *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_outputs: int | None = None,
        *,
        width: int = 64,
        stem_padding: int = 2,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _he_init,
        rngs: nnx.Rngs,
    ):
        checks.at_least("in_channels", in_channels, 1)
        checks.at_least("width", width, 1)
        checks.at_least("stem_padding", stem_padding, 0)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        kernels = {"precision": precision, "kernel_init": kernel_init}
        self.stem = nnx.Conv(
            in_channels,
            width,
            (3, 3),
            padding=stem_padding,
            use_bias=False,
            **kernels,
            **options,
        )
        self.norm = _norm("batch", width, **options)
        self.blocks = nnx.List([])
        channels = width
        for stage in range(4):
            for index in range(2):
                features = width << stage
                stride = 2 if stage and not index else 1
                self.blocks.append(
                    _BasicBlock(channels, features, stride, kernels, options)
                )
                channels = features
        if num_outputs is not None:
            checks.at_least("num_outputs", num_outputs, 1)
        self.linear = (
            None
            if num_outputs is None
            else nnx.Linear(channels, num_outputs, precision=precision, **options)
        )

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to features, or outputs if there is a head.

        Args:
          images: a batch.
          train: whether batch norm uses and remembers the statistics of this batch.

        Returns:
          ``[B, 8 * width]`` or ``[B, num_outputs]``.
        """
        features = self.embed(images, train=train)
        if self.linear is None:
            return features
        with jax.numpy_dtype_promotion("standard"):
            return self.linear(features)

    def embed(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to the mean of the last block over all pixels."""
        with jax.numpy_dtype_promotion("standard"):
            x = jax.nn.relu(_normalize(self.norm, self.stem(images), train))
            for block in self.blocks:
                x = block(x, train)
            return jnp.mean(x, axis=(1, 2))


class _BasicBlock(nnx.Module):
    """Two convolutions and a shortcut."""

    def __init__(
        self,
        channels: int,
        features: int,
        stride: int,
        kernels: dict[str, Any],
        options: dict[str, Any],
    ):
        def conv(inputs: int, size: int, strides: int) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                features,
                (size, size),
                strides=strides,
                padding=size // 2,
                use_bias=False,
                **kernels,
                **options,
            )

        self.first, self.second = conv(channels, 3, stride), conv(features, 3, 1)
        self.first_norm = _norm("batch", features, **options)
        self.second_norm = _norm("batch", features, **options)
        changes = stride > 1 or channels != features
        self.shortcut = conv(channels, 1, stride) if changes else None
        self.shortcut_norm = _norm("batch", features, **options) if changes else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = jax.nn.relu(_normalize(self.first_norm, self.first(x), train))
        y = _normalize(self.second_norm, self.second(y), train)
        if self.shortcut is not None:
            x = _normalize(self.shortcut_norm, self.shortcut(x), train)
        return jax.nn.relu(x + y)


class BarlowTwinsHead(nnx.Module):
    r"""The projector on which a self-supervised loss of two views stands.

    Linear maps without bias, with a batch norm and a ReLU between them.

    Args:
      in_features: features of the representation.
      widths: outputs of each map.
      first_relu: whether a ReLU comes before the first map, for representations that
        are outputs of a linear map themselves.
      affine: whether the norms have a scale and a shift.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the maps.
      kernel_init: initializer of the kernels.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1 or ``widths`` is empty.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> def embeddings():
      ...     head = jaxkit.nn.BarlowTwinsHead(512, rngs=nnx.Rngs(0))
      ...     return head(jnp.ones((4, 512)), train=True)
      >>> nnx.eval_shape(embeddings).shape
      (4, 8192)

    References:
      Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy
      Reduction*, ICML 2021.
    """

    def __init__(
        self,
        in_features: int,
        *,
        widths: Sequence[int] = (8192, 8192, 8192),
        first_relu: bool = False,
        affine: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _uniform_init,
        rngs: nnx.Rngs,
    ):
        if not widths:
            raise ValueError("`widths` must not be empty, got ().")
        checks.at_least("in_features", in_features, 1)
        for index, size in enumerate(widths):
            checks.at_least(f"widths[{index}]", size, 1)
        sizes = [in_features, *widths]
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.linears = nnx.List(
            [
                nnx.Linear(
                    inputs,
                    outputs,
                    use_bias=False,
                    precision=precision,
                    kernel_init=kernel_init,
                    **options,
                )
                for inputs, outputs in itertools.pairwise(sizes)
            ]
        )
        self.norms = nnx.List(
            [_norm("batch", size, affine=affine, **options) for size in widths[:-1]]
        )
        self.first_relu = first_relu

    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps representations ``[B, in_features]`` to ``[B, widths[-1]]``.

        Args:
          features: a batch.
          train: whether batch norm uses and remembers the statistics of this batch.

        Returns:
          The embeddings that the loss compares.
        """
        with jax.numpy_dtype_promotion("standard"):
            x = jax.nn.relu(features) if self.first_relu else features
            for linear, norm in zip(self.linears, self.norms, strict=False):
                x = jax.nn.relu(_normalize(norm, linear(x), train))
            return self.linears[-1](x)


def _norm(
    kind: str,
    features: int,
    *,
    affine: bool = True,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module:
    options = {
        "epsilon": 1e-5,
        "use_fast_variance": False,
        "use_bias": affine,
        "use_scale": affine,
        "dtype": dtype,
        "param_dtype": param_dtype,
        "rngs": rngs,
    }
    if kind == "batch":
        # The momentum of Flax is the part kept, that of PyTorch the part replaced.
        return nnx.BatchNorm(features, momentum=0.9, **options)
    groups = 4 if kind == "group" else features
    return nnx.GroupNorm(features, num_groups=groups, **options)


def _normalize(norm: nnx.Module | None, x: jax.Array, train: bool) -> jax.Array:
    if isinstance(norm, nnx.BatchNorm):
        return norm(x, use_running_average=not train)
    return norm(x) if norm is not None else x


def _halve(x: jax.Array) -> jax.Array:
    """Averages over 2x2 pixels; a last odd row or column is dropped."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    return jnp.mean(x.reshape(batch, height, 2, width, 2, channels), axis=(2, 4))
