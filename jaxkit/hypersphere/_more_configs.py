"""Three more losses with class weights: D-Softmax, ElasticFace and Circle."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.hypersphere._hyperparameters import (
    NON_NEGATIVE,
    POSITIVE,
    Hyperparameters,
    Interval,
    SoftmaxHyperparameters,
    static_field,
)
from jaxkit.hypersphere._margin_config import additive_angle
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import Key, PyTree, ScalarLike

__all__ = ["CircleClassConfig", "DSoftmaxConfig", "ElasticFaceConfig"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DSoftmaxConfig(Hyperparameters):
    """The softmax taken apart into a pull and a push that do not see each other.

    Attributes:
      scale: the factor of the cosines; positive.
      target: the cosine to the own class at which the pull has half its strength.

    Raises:
      ValueError: if a Python number is out of range.
    """

    kind: ClassVar[str] = "softmax"
    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "target": Interval(-1.0, 1.0),
    }

    scale: ScalarLike = 32.0
    target: ScalarLike = 0.9

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the pull to the own class; the push is measured from the logit 0."""
        del num_classes, state, key
        cos = sample.angle.cos
        pull = jax.nn.softplus(self.scale * (self.target - cos))
        return Terms(pull, anchor=jnp.zeros_like(cos))

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * cos


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ElasticFaceConfig(SoftmaxHyperparameters):
    """Softmax with a margin drawn anew for every sample.

    Attributes:
      scale: the factor of the logits; positive.
      margin: the mean of the margins, at least 0.
      margin_std: their standard deviation, at least 0.
      on: ``"angle"`` adds the margin to the angle, ``"cosine"`` takes it off the cosine;
        static.
      ranked: whether the smallest margins go to the samples closest to their class;
        static.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range or ``on`` is unknown.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": NON_NEGATIVE,
        "margin_std": NON_NEGATIVE,
    }

    scale: ScalarLike = 64.0
    margin: ScalarLike = 0.5
    margin_std: ScalarLike = 0.05
    on: str = static_field("angle")
    ranked: bool = static_field(False)

    def __post_init__(self) -> None:
        checks.one_of("on", self.on, ("angle", "cosine"))
        super().__post_init__()

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class."""
        del state
        if key is None:
            raise TypeError("`key` must be a typed key for random margins, got None.")
        checks.typed_key(key)
        cos = sample.angle.cos
        noise = jax.random.normal(key, cos.shape, cos.dtype)
        if self.ranked:
            noise = _ranked(noise, jax.lax.stop_gradient(cos), sample.where)
        margin = self.margin + self.margin_std * noise
        on_angle = self.on == "angle"
        target = additive_angle(sample.angle, margin) if on_angle else cos - margin
        return self.softmax_terms(self.scale * target, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        return self.scale * cos


def _ranked(noise: jax.Array, cos: jax.Array, where: jax.Array) -> jax.Array:
    """Gives the samples that count their own draws, the smallest to the closest."""
    smallest_first = jnp.sort(jnp.where(where, noise, jnp.inf))
    closest_first = jnp.argsort(jnp.where(where, -cos, jnp.inf))
    ranked = jnp.zeros_like(noise).at[closest_first].set(smallest_first)
    return jnp.where(where, ranked, jnp.zeros_like(noise))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CircleClassConfig(SoftmaxHyperparameters):
    """Softmax whose logits weigh each cosine by how far it is from its optimum.

    Attributes:
      scale: the factor of the logits; positive.
      margin: how far from 1 and 0 the cosines of own and other classes may stay;
        at least 0.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": NON_NEGATIVE,
    }

    scale: ScalarLike = 256.0
    margin: ScalarLike = 0.25

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class."""
        del state, key
        cos = sample.angle.cos
        lack = jax.lax.stop_gradient(jax.nn.relu(1.0 + self.margin - cos))
        logit = self.scale * lack * (cos - (1.0 - self.margin))
        return self.softmax_terms(logit, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        excess = jax.lax.stop_gradient(jax.nn.relu(cos + self.margin))
        return self.scale * excess * (cos - self.margin)
