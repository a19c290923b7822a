"""What a network that was trained on a distilled set has learned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.distillation._krr import krr_loss
from jaxkit.distillation._networks import Network, Synthetic, check_pairs
from jaxkit.ops import abs_squared, masked_fill
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["RepresentationError", "representation_mse"]


class RepresentationError(NamedTuple):
    """How far a network is from the teacher, one value per image.

    Attributes:
      head: of the output of the network as it was trained, shape ``[B]``.
      krr: with its last layer solved anew by kernel ridge regression, shape ``[B]``.
    """

    head: jax.Array
    krr: jax.Array


def representation_mse(
    network: Network,
    params: PyTree,
    batch_stats: PyTree,
    synthetic: Synthetic,
    images: ArrayLike,
    targets: ArrayLike,
    *,
    coef: ArrayLike = 1e-6,
    scale: str = "trace",
    bias: bool = True,
    method: str = "auto",
    where: ArrayLike | None = None,
) -> RepresentationError:
    r"""Measures the squared error to the teacher on images that nobody trained on.

    .. math:: e_b = \tfrac1k \|h(f(x_b)) - y_b\|^2, \qquad
       e_b^{\mathrm{krr}} = \tfrac1k \|F_b F_s^\top (F_s F_s^\top + \lambda I)^{-1} Y_s
       - y_b\|^2

    Both networks are in evaluation mode. Standardize the targets by mean and deviation
    of the training images: the errors then are fractions of variance unexplained, and
    predicting the mean scores 1. Takes functions, so it is not jitted itself.

    Args:
      network: the functions of the network.
      params: its parameters after training on ``synthetic``.
      batch_stats: its running statistics.
      synthetic: the distilled set, for the second error.
      images: held-out images, shape ``[B, H, W, C]``.
      targets: what the teacher says of them, shape ``[B, k]``.
      coef: the ridge relative to the trace, as in :func:`krr_loss`.
      scale: what ``coef`` multiplies, as in :func:`krr_loss`; static.
      bias: whether the features get a constant column; static.
      method: of the solve, as in :func:`krr_loss`; static.
      where: which images count, bool, shape ``[B]``; the others may hold NaN and give 0.

    Returns:
      Both errors of each image, at least float32.

    Raises:
      TypeError: if images or targets are not real.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> flat = lambda images: images.reshape(len(images), -1)
      >>> linear = distillation.Network(
      ...     init=lambda key: (jnp.zeros((4, 1)), {}),
      ...     embed=lambda params, stats, images: flat(images),
      ...     apply=lambda params, stats, images, train: (flat(images) @ params, stats),
      ... )
      >>> images = jnp.eye(4).reshape(4, 2, 2, 1)
      >>> targets = jnp.ones((4, 1))
      >>> synthetic = distillation.Synthetic(images, targets)
      >>> params, stats = linear.init(jax.random.key(0))
      >>> error = distillation.representation_mse(
      ...     linear, params, stats, synthetic, images, targets
      ... )
      >>> print(error.head.mean(), bool(error.krr.mean() < 1e-6))
      1.0 True

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """
    real = check_pairs("images", images, "targets", targets)
    mask = checks.mask("where", where, real.images.shape[:1])
    images = masked_fill(real.images, mask[:, None, None, None])
    targets = masked_fill(real.targets, mask[:, None])
    predicted, _ = network.apply(params, batch_stats, images, False)
    if predicted.shape != targets.shape:
        raise ValueError(
            "`network.apply` must give outputs of the shape of `targets`, got "
            f"{predicted.shape} and {targets.shape}."
        )
    dtype = accumulation_dtype(predicted, targets)
    gap = predicted.astype(dtype) - targets.astype(dtype)
    krr = krr_loss(
        network.embed(params, batch_stats, synthetic.images),
        synthetic.targets,
        network.embed(params, batch_stats, images),
        targets,
        coef=coef,
        scale=scale,
        bias=bias,
        method=method,
        where=mask,
    )
    head = masked_fill(jnp.mean(abs_squared(gap), axis=-1), mask)
    return RepresentationError(head, krr)
