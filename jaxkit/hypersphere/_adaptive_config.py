"""Margins and scales that follow the training: AdaCos, CurricularFace, AdaFace, MagFace."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._hyperparameters import (
    INNER_SHARE,
    MARGIN,
    NON_NEGATIVE,
    POSITIVE,
    Interval,
    SoftmaxHyperparameters,
)
from jaxkit.hypersphere._margin_config import additive_angle
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import Key, PyTree, ScalarLike

__all__ = [
    "AdaCosConfig",
    "AdaCosState",
    "AdaFaceConfig",
    "AdaFaceState",
    "CurricularFaceConfig",
    "CurricularFaceState",
    "MagFaceConfig",
    "clipped_norm",
    "fixed_adacos_scale",
]


class AdaCosState(NamedTuple):
    """What AdaCos has learned of earlier batches.

    Attributes:
      scale: the factor of the logits, a scalar.
    """

    scale: jax.Array


class CurricularFaceState(NamedTuple):
    """What CurricularFace has learned of earlier batches.

    Attributes:
      mean_cos: running mean of the cosines to the own class, a scalar.
    """

    mean_cos: jax.Array


class AdaFaceState(NamedTuple):
    """What AdaFace has learned of earlier batches.

    Attributes:
      mean: running mean of the clipped lengths of embeddings, a scalar.
      std: running standard deviation of them, a scalar.
    """

    mean: jax.Array
    std: jax.Array


def fixed_adacos_scale(num_classes: int) -> float:
    """Gives the scale at which AdaCos starts."""
    if num_classes < 3:
        raise ValueError(
            f"`class_weights` must hold at least 3 classes for AdaCos, got {num_classes}."
        )
    return math.sqrt(2.0) * math.log(num_classes - 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaCosConfig(SoftmaxHyperparameters):
    r"""Softmax over cosines whose scale the state holds.

    Without a state the scale is fixed at :math:`\sqrt 2 \ln(C - 1)` for :math:`C` classes.

    Attributes:
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: AdaCosState | None = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class, and the scale."""
        del key
        cos = sample.angle.cos
        scale = fixed_adacos_scale(num_classes)
        if state is not None:
            scale = jax.lax.stop_gradient(state.scale)
        context = scale * jnp.ones_like(cos)
        return self.softmax_terms(context * cos, num_classes, context)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        return context * cos


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CurricularFaceConfig(SoftmaxHyperparameters):
    r"""Softmax with a margin on the angle that stresses hard classes more and more.

    A class with :math:`\cos\theta_j > \cos(\theta_y + m)` is hard, and has the logit
    :math:`s \cos\theta_j (T + \cos\theta_j)` with the running mean :math:`T` of the state.

    Attributes:
      scale: the factor of the logits; positive.
      margin: the margin in radians, from 0 to below pi/2.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {"scale": POSITIVE, "margin": MARGIN}

    scale: ScalarLike = 64.0
    margin: ScalarLike = 0.5

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: CurricularFaceState | None = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class, where others are hard, and how hard."""
        del key
        target = additive_angle(sample.angle, self.margin, "linear")
        edge = jax.lax.stop_gradient(additive_angle(sample.angle, self.margin))
        progress = jnp.zeros_like(edge)
        if state is not None:
            progress += jax.lax.stop_gradient(state.mean_cos)
        return self.softmax_terms(self.scale * target, num_classes, (edge, progress))

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        edge, progress = context
        factor = jnp.where(cos > edge, progress + cos, jnp.ones_like(cos))
        return self.scale * cos * factor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MagFaceConfig(SoftmaxHyperparameters):
    r"""Softmax with a margin on the angle that grows with the length of an embedding.

    The length :math:`n`, clipped to an interval, sets the margin between two ends, and
    :math:`\lambda (n/u^2 + 1/n)` is added to reward length. The gradient flows through it.
    The best length of a well placed sample is inside of the interval only if
    :math:`\lambda \ge s K u^2 l^2 / (u^2 - l^2)` with the slope :math:`K` of the margin.

    Attributes:
      scale: the factor of the logits; positive.
      min_norm: the lower end :math:`l` of the interval; positive.
      max_norm: its upper end :math:`u`, above ``min_norm``.
      min_margin: the margin at the lower end in radians, from 0 to below pi/2.
      max_margin: the margin at the upper end.
      norm_weight: the weight :math:`\lambda` of the reward, at least 0.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range, or the interval is empty.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "min_norm": POSITIVE,
        "max_norm": POSITIVE,
        "min_margin": MARGIN,
        "max_margin": MARGIN,
        "norm_weight": NON_NEGATIVE,
    }

    scale: ScalarLike = 64.0
    min_norm: ScalarLike = 10.0
    max_norm: ScalarLike = 110.0
    min_margin: ScalarLike = 0.45
    max_margin: ScalarLike = 0.8
    norm_weight: ScalarLike = 35.0

    def _check_numbers(self, kinds: tuple[type, ...]) -> None:
        super()._check_numbers(kinds)
        low, high = self.min_norm, self.max_norm
        if isinstance(low, kinds) and isinstance(high, kinds) and not low < high:
            raise ValueError(f"`max_norm` must be above {low}, got {high}.")

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class, and the reward of length."""
        del state, key
        low, high = self.min_norm, self.max_norm
        norm = jnp.clip(sample.norm, low, high)
        slope = (self.max_margin - self.min_margin) / (high - low)
        margin = self.min_margin + slope * (norm - low)
        target = additive_angle(sample.angle, margin, "easy")
        terms = self.softmax_terms(self.scale * target, num_classes)
        reward = self.norm_weight * (norm / high**2 + 1.0 / norm)
        return terms._replace(value=terms.value + reward)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * cos


def clipped_norm(norm: jax.Array) -> jax.Array:
    """Gives the length of an embedding as AdaFace sees it, without a derivative."""
    return jax.lax.stop_gradient(jnp.clip(norm, 1e-3, 100.0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaFaceConfig(SoftmaxHyperparameters):
    r"""Softmax with margins on angle and cosine set by the length of an embedding.

    The length, compared to the running mean and standard deviation of the state, gives a
    quality :math:`q` from -1 to 1; the own cosine becomes
    :math:`\cos(\theta_y - m q) - m (1 + q)`. Without a state, mean 20 and standard
    deviation 100 are taken.

    Attributes:
      scale: the factor of the logits; positive.
      margin: the margin :math:`m`, from 0 to below pi/2.
      concentration: the factor of the standardized length; at least 0.
      eps: how far all cosines and angles are kept from the poles; between 0 and 1.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": MARGIN,
        "concentration": NON_NEGATIVE,
        "eps": INNER_SHARE,
    }

    scale: ScalarLike = 64.0
    margin: ScalarLike = 0.4
    concentration: ScalarLike = 0.333
    eps: ScalarLike = 1e-3

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: AdaFaceState | None = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class."""
        del key
        mean, std = (20.0, 100.0) if state is None else state
        standard = (clipped_norm(sample.norm) - mean) / (std + self.eps)
        quality = jnp.clip(self.concentration * standard, -1.0, 1.0)
        shift = self.margin * jax.lax.stop_gradient(quality)
        # Clipping the angle is clipping the cosine, without its steep inverse.
        near, far = jnp.arccos(1.0 - self.eps), jnp.arccos(self.eps - 1.0)
        theta = jnp.clip(sample.angle.theta, near, far)
        turned = jnp.clip(theta - shift, self.eps, jnp.pi - self.eps)
        target = jnp.cos(turned) - (self.margin + shift)
        return self.softmax_terms(self.scale * target, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * jnp.clip(cos, self.eps - 1.0, 1.0 - self.eps)
