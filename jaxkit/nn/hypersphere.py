"""Modules of the hypersphere system: a head for every loss, a small image network."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import hypersphere
from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.typing import DTypeLike, Key, PyTree

__all__ = ["EmbeddingNet", "HypersphereHead", "LossState"]

Initializer: TypeAlias = jax.nn.initializers.Initializer

_he_init = nnx.initializers.he_normal()


class LossState(nnx.Variable[Any]):
    """What an adaptive loss has learned of earlier batches; not a parameter.

    Its type picks it out of the other variables of a model, as
    ``nnx.split(model, nnx.Param, LossState, ...)``.
    """


class HypersphereHead(nnx.Module):
    r"""Class weights, and the state of the loss that is computed with them.

    .. math:: \ell_i = \ell(x_i, W, y_i; \text{config}, \text{state})

    A wrapper of :func:`jaxkit.hypersphere.hypersphere_loss` and its streaming form. The
    states of AdaCos, CurricularFace and AdaFace and the annealing of SphereFace advance
    by one with each call in training, before the loss; the bias of SphereFace2 is a
    parameter. The annealing of SphereFace follows
    :func:`jaxkit.hypersphere.sphereface_annealing`, whatever the configuration says,
    unless it has a fixed scale.

    Args:
      features: features ``D`` of the embeddings.
      num_classes: the number ``C`` of classes.
      config: the loss and its hyper-parameters; None for SFace with its defaults.
      sub_centers: weights for each class, of which the closest counts.
      class_chunk: computes the loss over slices of at most so many classes; None with
        the whole matrix of cosines. The metrics always take slices.
      active_limit: see :func:`jaxkit.hypersphere.streaming_loss`; needs `class_chunk`.
      compute_dtype: dtype of the factors of the products with the class weights.
      param_dtype: dtype of the parameters.
      kernel_init: initializer of the class weights; None for normal entries of standard
        deviation :math:`2 \sqrt{2 / C}`, as in the code of SFace.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1, there are several centers and slices, or
        `active_limit` comes without `class_chunk`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> head = jaxkit.nn.HypersphereHead(2, 3, rngs=nnx.Rngs(0))
      >>> losses, metrics = head(jnp.eye(2), jnp.array([0, 2]))
      >>> losses.shape, head.logits(jnp.eye(2)).shape
      ((2,), (2, 3))

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021; the loss of each
      configuration names its own.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        config: Any = None,
        sub_centers: int = 1,
        class_chunk: int | None = None,
        active_limit: int = 0,
        compute_dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        sizes = {
            "features": features,
            "num_classes": num_classes,
            "sub_centers": sub_centers,
        }
        for name, size in sizes.items():
            checks.at_least(name, size, 1)
        if sub_centers > 1 and class_chunk is not None:
            raise ValueError(
                f"`class_chunk` must be None with several centers, got {class_chunk}."
            )
        if active_limit and class_chunk is None:
            raise ValueError(
                f"`active_limit` needs `class_chunk`, got {active_limit} and None."
            )
        self.config: Any = hypersphere.SFaceConfig() if config is None else config
        self.class_chunk, self.active_limit = class_chunk, active_limit
        self.compute_dtype = compute_dtype
        init = kernel_init or nnx.initializers.normal(2.0 * math.sqrt(2 / num_classes))
        shape = (num_classes, *([sub_centers] if sub_centers > 1 else []), features)
        self.weight = nnx.Param(init(rngs.params(), shape, param_dtype))
        start = _initial_state(self.config, num_classes)
        self.state = None if start is None else LossState(start)
        bias = _initial_bias(self.config, num_classes)
        self.bias = None if bias is None else nnx.Param(bias.astype(param_dtype))

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        *,
        train: bool = True,
        key: Key | None = None,
        where: jax.Array | None = None,
    ) -> tuple[jax.Array, hypersphere.HypersphereMetrics]:
        """Computes losses and metrics; advances the state in training.

        Args:
          embeddings: embeddings ``[B, D]`` of any length.
          labels: the class of each, integers ``[B]``; -1 for none.
          train: whether to advance the state of an adaptive loss.
          key: a typed random key, for losses with random margins.
          where: which samples count, bool ``[B]``.

        Returns:
          The loss of each sample ``[B]``, that of `losses`, and the metrics, passes over
          the classes of their own; what is not used of them a compiled program does
          not compute.

        Raises:
          ValueError: if there are several centers for each class: use `losses`.
        """
        if self.weight.ndim == 3:
            raise ValueError(
                "Metrics need one center for each class: call `losses` instead."
            )
        if train:
            self.advance(embeddings, labels, where=where)
        arguments = (embeddings, self.weight[...], labels, self._config())
        if self.class_chunk is None:
            # Slices have no forward derivative, and the metrics need none.
            arguments = jax.lax.stop_gradient(arguments)
        values, metrics = hypersphere.loss_with_metrics(
            *arguments,
            class_chunk=self.class_chunk,
            active_limit=self.active_limit,
            compute_dtype=self.compute_dtype,
            **self._options(key, where),
        )
        if self.class_chunk is None:
            values = self.losses(embeddings, labels, train=False, key=key, where=where)
        return values, metrics

    def losses(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        *,
        train: bool = True,
        key: Key | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """The losses ``[B]`` alone; the arguments of :meth:`__call__`."""
        if train:
            self.advance(embeddings, labels, where=where)
        arguments = (embeddings, self.weight[...], labels, self._config())
        options = self._options(key, where) | {"compute_dtype": self.compute_dtype}
        if self.class_chunk is None:
            return hypersphere.hypersphere_loss(*arguments, **options)
        return hypersphere.streaming_loss(
            *arguments,
            class_chunk=self.class_chunk,
            active_limit=self.active_limit,
            **options,
        )

    def logits(self, embeddings: jax.Array) -> jax.Array:
        """Scaled cosines ``[B, C]`` without a margin, for inference.

        The scale is that of the configuration or the state, 1 where there is none. For
        the plain softmax these are its logits.
        """
        weight = self.weight[...]
        if not self.config.normalized:
            return jnp.einsum(
                "bd,cd->bc",
                embeddings,
                weight,
                precision=jax.lax.Precision.HIGHEST,
                preferred_element_type=accumulation_dtype(embeddings, weight),
            )
        cos = hypersphere.cosine_similarity_matrix(
            embeddings, weight, compute_dtype=self.compute_dtype
        )
        scale = getattr(self.config, "scale", None)
        if self.state is not None and hasattr(self.state.get_value(), "scale"):
            scale = self.state.get_value().scale
        return cos if scale is None else cos * jnp.asarray(scale, cos.dtype)

    def advance(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        *,
        where: jax.Array | None = None,
    ) -> None:
        """Advances the state of an adaptive loss by a batch; nothing for the others."""
        if self.state is None:
            return
        state, batch = self.state.get_value(), (embeddings, self.weight[...], labels)
        match self.config:
            case hypersphere.AdaCosConfig():
                state = hypersphere.adacos_update(state, *batch, where=where)
            case hypersphere.CurricularFaceConfig():
                state = hypersphere.curricularface_update(state, *batch, where=where)
            case hypersphere.AdaFaceConfig():
                state = hypersphere.adaface_update(
                    state, embeddings, labels, where=where
                )
            case _:
                state = state + 1
        self.state.set_value(state)

    def _config(self) -> Any:
        """The configuration with what has been learned or annealed."""
        if self.bias is not None:
            return dataclasses.replace(self.config, bias=self.bias[...])
        if self.state is not None and _is_annealed(self.config):
            # Before any training the state is -1.
            step = jnp.maximum(self.state.get_value(), 0)
            annealing = hypersphere.sphereface_annealing(step)
            return dataclasses.replace(self.config, annealing=annealing)
        return self.config

    def _options(self, key: Key | None, where: jax.Array | None) -> dict[str, Any]:
        adaptive = self.state is not None and not _is_annealed(self.config)
        state = self.state.get_value() if adaptive and self.state is not None else None
        return {"state": state, "key": key, "where": where}


def _is_annealed(config: Any) -> bool:
    # The revised form has a fixed scale and no annealing.
    return isinstance(config, hypersphere.SphereFaceConfig) and config.scale is None


def _initial_bias(config: Any, num_classes: int) -> jax.Array | None:
    if not isinstance(config, hypersphere.SphereFace2Config):
        return None
    if config.bias is not None:
        return jnp.asarray(config.bias)
    numbers = ("scale", "margin", "positive_weight", "exponent")
    options = {name: getattr(config, name) for name in numbers}
    return hypersphere.sphereface2_initial_bias(num_classes, **options)


def _initial_state(config: Any, num_classes: int) -> PyTree:
    match config:
        case hypersphere.AdaCosConfig():
            return hypersphere.adacos_init(num_classes)
        case hypersphere.CurricularFaceConfig():
            return hypersphere.curricularface_init()
        case hypersphere.AdaFaceConfig():
            return hypersphere.adaface_init()
    # Calls so far: the first one advances it to 0.
    return jnp.full((), -1, jnp.int32) if _is_annealed(config) else None


class EmbeddingNet(nnx.Module):
    r"""A small network from images to embeddings, quick on CPUs.

    Stages of a 3x3 convolution with stride 2, batch norm and ReLU; then a linear map
    and a batch norm. A convolution is nine slices and one matrix product, which XLA
    compiles for CPUs better than its own convolution.

    Args:
      in_channels: channels of the images.
      image_size: their side.
      features: features ``D`` of the embeddings.
      widths: channels of each stage; a stage halves the side, rounding up.
      affine: whether the last norm has a scale and a bias.
      param_dtype: dtype of the parameters.
      precision: precision of the matrix products.
      kernel_init: initializer of the kernels.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> net = jaxkit.nn.EmbeddingNet(1, 28, 64, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((2, 28, 28, 1))).shape
      (2, 64)
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        features: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        affine: bool = True,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _he_init,
        rngs: nnx.Rngs,
    ):
        sizes = {"in_channels": in_channels, "image_size": image_size}
        sizes |= {"features": features}
        sizes |= {f"widths[{i}]": width for i, width in enumerate(widths)}
        for name, size in sizes.items():
            checks.at_least(name, size, 1)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        kernels = {"kernel_init": kernel_init, "precision": precision}
        self.convolutions, self.norms = nnx.List([]), nnx.List([])
        channels, side = in_channels, image_size
        for width in widths:
            # The norm that follows takes the place of a bias.
            self.convolutions.append(
                nnx.Linear(9 * channels, width, use_bias=False, **kernels, **options)
            )
            self.norms.append(nnx.BatchNorm(width, momentum=0.9, **options))
            channels, side = width, (side + 1) // 2
        self.linear = nnx.Linear(
            channels * side * side, features, use_bias=False, **kernels, **options
        )
        self.last_norm = nnx.BatchNorm(
            features, momentum=0.9, use_scale=affine, use_bias=affine, **options
        )

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to embeddings ``[B, D]``.

        Args:
          images: a batch.
          train: whether the norms use and remember the statistics of this batch.

        Returns:
          The embeddings, of any length.
        """
        # Flax mixes dtypes and ranks inside its norms.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            x = images
            for linear, norm in zip(self.convolutions, self.norms, strict=True):
                x = linear(_patches(x))
                x = jax.nn.relu(norm(x, use_running_average=not train))
            x = self.linear(x.reshape(x.shape[0], -1))
            return self.last_norm(x, use_running_average=not train)


def _patches(x: jax.Array) -> jax.Array:
    """Puts the 3x3 neighborhood of every other pixel side by side, ``9 C`` channels."""
    rows, columns = ((side + 1) // 2 for side in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(windows, axis=-1)
