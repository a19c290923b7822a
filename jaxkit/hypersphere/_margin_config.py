"""Softmax losses with a margin on the angle or the cosine to the own class."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.hypersphere._hyperparameters import (
    MARGIN,
    NON_NEGATIVE,
    POSITIVE,
    Interval,
    SoftmaxHyperparameters,
    static_field,
)
from jaxkit.hypersphere._protocol import Sample, TargetAngle, Terms
from jaxkit.typing import Key, PyTree, ScalarLike

__all__ = [
    "BOUNDARIES",
    "MarginConfig",
    "additive_angle",
    "detached",
]

BOUNDARIES = ("linear", "easy", "none", "clip")


def additive_angle(
    angle: TargetAngle, margin: ScalarLike, boundary: str = "none"
) -> jax.Array:
    """Gives cos(theta + margin) without an arc cosine, guarded past a straight angle."""
    target = angle.cos * jnp.cos(margin) - angle.sin * jnp.sin(margin)
    if boundary == "linear":
        past = angle.theta > jnp.pi - margin
        return jnp.where(past, angle.cos - margin * jnp.sin(margin), target)
    if boundary == "easy":
        return jnp.where(angle.cos > 0, target, angle.cos)
    if boundary == "clip":
        return jnp.where(angle.theta > jnp.pi - margin, -1.0, target)
    return target


def detached(target: jax.Array, cos: jax.Array) -> jax.Array:
    """Gives the value of ``target`` the derivative of ``cos``."""
    # The first two terms cancel exactly; the value is not rounded twice.
    return cos - jax.lax.stop_gradient(cos) + jax.lax.stop_gradient(target)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MarginConfig(SoftmaxHyperparameters):
    r"""Softmax over scaled cosines, with margins for the own class.

    The logits are :math:`s \cos\theta_j` for other classes and
    :math:`s (\cos(m_1 \theta_y + m_2) - m_3)` for the own. A pytree whose numbers may be
    traced; those left None are not computed at all.

    Attributes:
      scale: the factor :math:`s` of the logits, the inverse temperature; positive.
      angle_factor: the factor :math:`m_1`, at least 1; None for 1.
      angle_margin: the margin :math:`m_2` in radians, from 0 to below pi/2.
      cosine_margin: the margin :math:`m_3`, at least 0.
      boundary: what happens where :math:`m_1 \theta_y + m_2` passes pi, where the cosine
        would rise again: ``"linear"`` uses
        :math:`\cos\theta_y - m_2 \sin m_2`; ``"easy"`` uses the margin only where
        :math:`\cos\theta_y > 0`; ``"clip"`` stops at pi; ``"none"`` lets it rise. The
        first two need ``angle_factor`` None; static.
      detach_margin: whether the derivative is that without a margin; static.
      filter_threshold: other classes whose cosine is above it get the logit 0, for
        labels that contradict each other; None for no such filter.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range, ``boundary`` is unknown or does not
        go with ``angle_factor``.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "angle_factor": Interval(1.0),
        "angle_margin": MARGIN,
        "cosine_margin": NON_NEGATIVE,
    }

    scale: ScalarLike = 64.0
    angle_factor: ScalarLike | None = None
    angle_margin: ScalarLike = 0.0
    cosine_margin: ScalarLike = 0.0
    boundary: str = static_field("linear")
    detach_margin: bool = static_field(False)
    filter_threshold: ScalarLike | None = None

    def __post_init__(self) -> None:
        checks.one_of("boundary", self.boundary, BOUNDARIES)
        if self.angle_factor is not None and self.boundary in ("linear", "easy"):
            raise ValueError(
                "`boundary` must be 'clip' or 'none' with an `angle_factor`, "
                f"got {self.boundary!r}."
            )
        super().__post_init__()

    @classmethod
    def normface(cls, *, scale: ScalarLike = 16.0) -> Self:
        """No margin."""
        return cls(scale=scale)

    @classmethod
    def cosface(cls, *, scale: ScalarLike = 64.0, margin: ScalarLike = 0.35) -> Self:
        """A margin on the cosine, also known as the additive margin softmax."""
        return cls(scale=scale, cosine_margin=margin)

    @classmethod
    def arcface(cls, *, scale: ScalarLike = 64.0, margin: ScalarLike = 0.5) -> Self:
        """A margin on the angle."""
        return cls(scale=scale, angle_margin=margin)

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
        target = self._target(sample.angle) - self.cosine_margin
        if self.detach_margin:
            target = detached(target, sample.angle.cos)
        return self.softmax_terms(self.scale * target, num_classes)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        del context
        logits = self.scale * cos
        if self.filter_threshold is None:
            return logits
        return jnp.where(cos > self.filter_threshold, jnp.zeros_like(logits), logits)

    def _target(self, angle: TargetAngle) -> jax.Array:
        if self.angle_factor is None:
            return additive_angle(angle, self.angle_margin, self.boundary)
        turned = self.angle_factor * angle.theta + self.angle_margin
        if self.boundary == "clip":
            turned = jnp.minimum(turned, jnp.pi)
        return jnp.cos(turned)
