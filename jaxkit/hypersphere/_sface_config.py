"""The hyper-parameters of SFace and what they do to one angle."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
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
    polar_angle,
)
from jaxkit.hypersphere._protocol import Sample, Terms, cast_leaves
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = [
    "IntraInter",
    "SFaceConfig",
    "sface_force",
    "sface_inter_potential",
    "sface_intra_potential",
    "sface_rescale",
]

FORMS = ("gated", "potential", "cosine")


class IntraInter(NamedTuple):
    """One number for the pull to the own class and one for the push from another.

    Attributes:
      intra: of the own class.
      inter: of another class.
    """

    intra: jax.Array
    inter: jax.Array


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


def _intra_scale(config: SFaceConfig, theta: jax.Array) -> jax.Array:
    opening = config.intra_sharpness * (theta - config.intra_angle)
    return config.scale * jax.nn.sigmoid(opening)


def _inter_scale(config: SFaceConfig, theta: jax.Array) -> jax.Array:
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
    return -jax.lax.stop_gradient(_intra_scale(config, theta)) * cos


def _gated_inter(config: SFaceConfig, cos: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(_inter_scale(config, _gate_angle(cos))) * cos


def _potential_intra(
    config: SFaceConfig, cos: jax.Array, theta: jax.Array
) -> jax.Array:
    shape = (config.intra_sharpness, config.intra_angle)
    return config.scale * gated_potential(cos, theta, *shape)


def _potential_inter(config: SFaceConfig, cos: jax.Array) -> jax.Array:
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
    "potential": _potential_intra,
    "cosine": _cosine_intra,
}
_INTER: Mapping[str, Callable[[SFaceConfig, jax.Array], jax.Array]] = {
    "gated": _gated_inter,
    "potential": _potential_inter,
    "cosine": _cosine_inter,
}


def _read(
    config: SFaceConfig | None, **values: ArrayLike
) -> tuple[SFaceConfig, jax.Array]:
    """Gives the configuration and one array in its dtype, at least float32."""
    (array,) = checks.floating(**values)
    dtype = accumulation_dtype(array)
    return cast_leaves(config or SFaceConfig(), dtype), array.astype(dtype)


def _gates(config: SFaceConfig, theta: jax.Array) -> IntraInter:
    return IntraInter(_intra_scale(config, theta), _inter_scale(config, theta))


@jit()
def sface_rescale(theta: ArrayLike, config: SFaceConfig | None = None) -> IntraInter:
    r"""Gives the gates of SFace at an angle.

    .. math::

        r_{\mathrm{intra}} = s\,\sigma\bigl(k (\theta - a)\bigr), \qquad
        r_{\mathrm{inter}} = s\,\sigma\bigl(-k (\theta - b)\bigr)

    Args:
      theta: angles in radians, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The two gates, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``theta`` is not real and floating.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.sface_rescale(0.8).intra)
      32.0

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    return _gates(*_read(config, theta=theta))


@jit()
def sface_force(theta: ArrayLike, config: SFaceConfig | None = None) -> IntraInter:
    r"""Gives how strongly SFace turns a unit embedding at an angle.

    .. math::

        v_{\mathrm{intra}} = r_{\mathrm{intra}}(\theta) \sin\theta, \qquad
        v_{\mathrm{inter}} = r_{\mathrm{inter}}(\theta) \sin\theta

    These are the sizes of the derivatives by the angle; the first closes the angle to
    the own class, the second opens the one to another.

    Args:
      theta: angles in radians, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The two forces, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``theta`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.sface_force(jnp.pi / 2).intra)
      64.0

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    used, angle = _read(config, theta=theta)
    return jax.tree.map(lambda gate: gate * jnp.sin(angle), _gates(used, angle))


@jit()
def sface_intra_potential(
    cos: ArrayLike, config: SFaceConfig | None = None
) -> jax.Array:
    r"""Gives the potential of the pull to the own class.

    .. math::

        \Phi_{\mathrm{intra}}(\theta)
            = \int_0^\theta s\,\sigma\bigl(k (t - a)\bigr) \sin t \,\mathrm{d}t, \qquad
        \frac{\partial \Phi_{\mathrm{intra}}}{\partial \cos\theta}
            = -s\,\sigma\bigl(k (\theta - a)\bigr)

    In closed form; convex in the cosine, and never negative. For sharpness 1 and above
    the value is within ``1e-10 * scale`` in float64 and ``1e-6 * scale`` in float32.

    Args:
      cos: cosines of the angles, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The potential, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``cos`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.sface_intra_potential(jnp.cos(0.9)):.4f}")
      4.7949
    """
    used, cosine = _read(config, cos=cos)
    return _potential_intra(used, cosine, polar_angle(cosine))


@jit()
def sface_inter_potential(
    cos: ArrayLike, config: SFaceConfig | None = None
) -> jax.Array:
    r"""Gives the potential of the push from another class.

    .. math::

        \Phi_{\mathrm{inter}}(\theta)
            = \int_\theta^\pi s\,\sigma\bigl(-k (t - b)\bigr) \sin t \,\mathrm{d}t, \qquad
        \frac{\partial \Phi_{\mathrm{inter}}}{\partial \cos\theta}
            = s\,\sigma\bigl(-k (\theta - b)\bigr)

    In closed form; convex in the cosine, and never negative. For sharpness 1 and above
    the value is within ``1e-10 * scale`` in float64 and ``1e-6 * scale`` in float32.

    Args:
      cos: cosines of the angles, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The potential, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``cos`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.sface_inter_potential(jnp.cos(0.9)):.4f}")
      18.3973
    """
    return _potential_inter(*_read(config, cos=cos))
