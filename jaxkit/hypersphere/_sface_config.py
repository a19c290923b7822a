"""The hyper-parameters of SFace and what they do to one angle."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.hypersphere._hyperparameters import (
    ANGLE,
    POSITIVE,
    Hyperparameters,
    Interval,
    static_field,
)
from jaxkit.hypersphere._potential import (
    gated_potential,
    gated_potential_of_cosine,
)
from jaxkit.hypersphere._protocol import Sample, Terms
from jaxkit.typing import Key, PyTree, ScalarLike

__all__ = [
    "SFaceConfig",
    "inter_scale",
    "intra_scale",
    "potential_inter",
    "potential_intra",
]

FORMS = ("gated", "potential", "cosine")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SFaceConfig(Hyperparameters):
    """SFace: a pull and a push, each switched by a sigmoid of the angle.

    A pytree whose numbers may be traced. The push must be able to stop: ``inter_angle``
    below the separation that the number of classes and dimensions allows, and
    ``intra_angle`` below it.

    Attributes:
      scale: the largest pull or push; positive.
      intra_sharpness: how suddenly the pull sets in; positive.
      inter_sharpness: how suddenly the push sets in; positive.
      intra_angle: where the pull has half its strength, in radians, between 0 and pi.
      inter_angle: where the push has half its strength, in radians, between 0 and pi.
      form: ``"gated"`` for the loss of the paper, whose gates are held constant,
        ``"potential"`` for the function with the same gradient, or ``"cosine"`` for its
        twin without angles; static.

    Raises:
      ValueError: if a Python number is out of range or ``form`` is unknown.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "intra_sharpness": POSITIVE,
        "inter_sharpness": POSITIVE,
        "intra_angle": ANGLE,
        "inter_angle": ANGLE,
    }

    scale: ScalarLike = 64.0
    intra_sharpness: ScalarLike = 80.0
    inter_sharpness: ScalarLike = 80.0
    intra_angle: ScalarLike = 0.80
    inter_angle: ScalarLike = 1.23
    form: str = static_field("gated")

    def __post_init__(self) -> None:
        checks.one_of("form", self.form, FORMS)
        super().__post_init__()

    @classmethod
    def casia_webface(cls) -> Self:
        """The published setting for CASIA-WebFace: 10,575 classes, ResNet-50."""
        return cls(intra_angle=0.87, inter_angle=1.20)

    @classmethod
    def vggface2(cls) -> Self:
        """The published setting for VGGFace2."""
        return cls(intra_angle=0.88, inter_angle=1.25)

    @classmethod
    def ms1mv2(cls) -> Self:
        """The published setting for MS1MV2: 85,742 classes, ResNet-100."""
        return cls(intra_angle=0.90, inter_angle=1.20)

    @classmethod
    def small_scale(cls) -> Self:
        """Softer gates, for hundreds of classes in tens of dimensions."""
        return cls(intra_sharpness=10.0, inter_sharpness=10.0, inter_angle=1.4)

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the pull to the own class."""
        del num_classes, state, key
        return Terms(_INTRA[self.form](self, sample.angle.cos, sample.angle.theta))

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the push from other classes."""
        del context
        return _INTER[self.form](self, cos)

    def active_cosine(self, eps: ScalarLike) -> jax.Array:
        """Gives the cosine below which the gate of another class is under ``eps``."""
        (level,) = checks.floating(eps=eps)
        reach = jnp.log1p(-level) - jnp.log(level)
        if self.form == "cosine":
            return jnp.cos(self.inter_angle) - reach / self._inter_slope
        angle = self.inter_angle + reach / self.inter_sharpness
        return jnp.where(angle < jnp.pi, jnp.cos(jnp.minimum(angle, jnp.pi)), -jnp.inf)

    @property
    def _intra_slope(self) -> jax.Array:
        return self.intra_sharpness / jnp.sin(self.intra_angle)

    @property
    def _inter_slope(self) -> jax.Array:
        return self.inter_sharpness / jnp.sin(self.inter_angle)


def intra_scale(config: SFaceConfig, theta: jax.Array) -> jax.Array:
    opening = config.intra_sharpness * (theta - config.intra_angle)
    return config.scale * jax.nn.sigmoid(opening)


def inter_scale(config: SFaceConfig, theta: jax.Array) -> jax.Array:
    opening = -config.inter_sharpness * (theta - config.inter_angle)
    return config.scale * jax.nn.sigmoid(opening)


# Coefficients of arccos(c) / sqrt(1 - c), from 0 to 1, the constant first.
_ARCCOS = (
    1.5707963050,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.0308918810,
    -0.0170881256,
    0.0066700901,
    -0.0012624911,
)


def _gate_angle(cos: jax.Array) -> jax.Array:
    """Gives the angle of a cosine to its dtype, without a derivative, cheaply."""
    cos = jax.lax.stop_gradient(jnp.clip(cos, -1.0, 1.0))
    if cos.dtype != jnp.float32:
        return jnp.arccos(cos)
    size = jnp.abs(cos)
    value = jnp.full_like(cos, _ARCCOS[-1])
    for coefficient in _ARCCOS[-2::-1]:
        value = value * size + coefficient
    value *= jnp.sqrt(1.0 - size)
    return jnp.where(cos < 0, jnp.pi - value, value)


def _gated_intra(config: SFaceConfig, cos: jax.Array, theta: jax.Array) -> jax.Array:
    return -jax.lax.stop_gradient(intra_scale(config, theta)) * cos


def _gated_inter(config: SFaceConfig, cos: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(inter_scale(config, _gate_angle(cos))) * cos


def potential_intra(config: SFaceConfig, cos: jax.Array, theta: jax.Array) -> jax.Array:
    shape = (config.intra_sharpness, config.intra_angle)
    return config.scale * gated_potential(cos, theta, *shape)


def potential_inter(config: SFaceConfig, cos: jax.Array) -> jax.Array:
    # The push is the pull of the opposite pole.
    shape = (config.inter_sharpness, jnp.pi - config.inter_angle)
    return config.scale * gated_potential_of_cosine(-cos, *shape)


def _cosine_intra(config: SFaceConfig, cos: jax.Array, theta: jax.Array) -> jax.Array:
    del theta
    slope = config._intra_slope
    lack = jnp.cos(config.intra_angle) - cos
    return config.scale / slope * jax.nn.softplus(slope * lack)


def _cosine_inter(config: SFaceConfig, cos: jax.Array) -> jax.Array:
    slope = config._inter_slope
    excess = cos - jnp.cos(config.inter_angle)
    return config.scale / slope * jax.nn.softplus(slope * excess)


_INTRA: Mapping[str, Callable[[SFaceConfig, jax.Array, jax.Array], jax.Array]] = {
    "gated": _gated_intra,
    "potential": potential_intra,
    "cosine": _cosine_intra,
}
_INTER: Mapping[str, Callable[[SFaceConfig, jax.Array], jax.Array]] = {
    "gated": _gated_inter,
    "potential": potential_inter,
    "cosine": _cosine_inter,
}
