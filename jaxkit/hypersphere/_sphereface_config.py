"""SphereFace, its revision, and its binary form."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.hypersphere._hyperparameters import (
    INNER_SHARE,
    NON_NEGATIVE,
    POSITIVE,
    Hyperparameters,
    Interval,
    SoftmaxHyperparameters,
    check_number,
    static_field,
)
from jaxkit.hypersphere._margin_config import detached
from jaxkit.hypersphere._protocol import Sample, Terms, cast_leaves
from jaxkit.typing import ArrayLike, Key, PyTree, ScalarLike

__all__ = [
    "SphereFace2Config",
    "SphereFaceConfig",
    "initial_bias",
    "sphereface2_initial_bias",
    "sphereface_annealing",
    "sphereface_psi",
]


def sphereface_psi(theta: jax.Array, margin: ScalarLike) -> jax.Array:
    """Continues cos(margin * theta) beyond pi so that it keeps falling."""
    turned = margin * theta
    half_turns = jax.lax.stop_gradient(jnp.floor(turned / jnp.pi))
    sign = 1.0 - 2.0 * jnp.mod(half_turns, 2.0)
    return sign * jnp.cos(turned) - 2.0 * half_turns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SphereFaceConfig(SoftmaxHyperparameters):
    r"""Softmax with a factor on the angle to the own class.

    The own cosine is replaced by
    :math:`(\lambda \cos\theta_y + \psi(\theta_y)) / (1 + \lambda)` with
    :math:`\psi = (-1)^q \cos m\theta_y - 2q` and :math:`q = \lfloor m\theta_y/\pi \rfloor`.

    Attributes:
      scale: the factor of the logits; None for the length of each embedding.
      margin: the factor :math:`m` of the angle, at least 1.
      annealing: the weight :math:`\lambda` of the plain cosine, at least 0: see
        :func:`sphereface_annealing`.
      detach_margin: whether the derivative is that without a margin; static.
      label_smoothing: the share of the target spread over all classes, at least 0 and
        below 1; None for 0.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": Interval(1.0),
        "annealing": NON_NEGATIVE,
    }

    scale: ScalarLike | None = None
    margin: ScalarLike = 4.0
    annealing: ScalarLike = 5.0
    detach_margin: bool = static_field(False)

    @classmethod
    def revised(cls) -> Self:
        """The revised form: a fixed scale, a smaller factor, a derivative without it."""
        return cls(scale=30.0, margin=1.7, annealing=0.0, detach_margin=True)

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logit of the own class, and the scale of each sample."""
        del state, key
        angle = sample.angle
        psi = sphereface_psi(angle.theta, self.margin)
        target = (self.annealing * angle.cos + psi) / (1.0 + self.annealing)
        if self.detach_margin:
            target = detached(target, angle.cos)
        scale = sample.norm if self.scale is None else self.scale
        context = scale * jnp.ones_like(angle.cos)
        return self.softmax_terms(context * target, num_classes, context)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logits of other classes."""
        return context * cos


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SphereFace2Config(Hyperparameters):
    r"""A logistic loss for each class on its own, with a bias that is learned.

    Attributes:
      scale: the factor :math:`r` of the cosines; positive.
      margin: the margin :math:`m` between own and other classes, at least 0.
      positive_weight: the weight :math:`\alpha` of the own class, between 0 and 1.
      exponent: the power :math:`\tau` of the similarity; positive.
      loss_weight: the factor of the whole loss; positive.
      bias: the bias :math:`\beta`, a parameter to be trained; None for
        :func:`sphereface2_initial_bias`.

    Raises:
      ValueError: if a Python number is out of range.
    """

    ranges: ClassVar[Mapping[str, Interval]] = {
        "scale": POSITIVE,
        "margin": NON_NEGATIVE,
        "positive_weight": INNER_SHARE,
        "exponent": POSITIVE,
        "loss_weight": POSITIVE,
    }

    scale: ScalarLike = 40.0
    margin: ScalarLike = 0.4
    positive_weight: ScalarLike = 0.7
    exponent: ScalarLike = 3.0
    loss_weight: ScalarLike = 50.0
    bias: ScalarLike | None = None

    def terms(
        self,
        sample: Sample,
        num_classes: int,
        *,
        state: PyTree = None,
        key: Key | None = None,
    ) -> Terms:
        """Gives the logistic loss of the own class, and the bias."""
        del state, key
        cos = sample.angle.cos
        bias = self.bias
        if bias is None:
            checks.at_least("num_classes", num_classes, 2)
            bias = initial_bias(
                num_classes,
                self.scale,
                self.margin,
                self.positive_weight,
                self.exponent,
            )
        context = bias * jnp.ones_like(cos)
        logit = self.scale * (self._similarity(cos) - self.margin) + context
        weight = self.positive_weight * self.loss_weight / self.scale
        return Terms(weight * jax.nn.softplus(-logit), context)

    def other(self, cos: jax.Array, context: PyTree) -> jax.Array:
        """Gives the logistic losses of other classes."""
        logit = self.scale * (self._similarity(cos) + self.margin) + context
        weight = (1.0 - self.positive_weight) * self.loss_weight / self.scale
        return weight * jax.nn.softplus(logit)

    def _similarity(self, cos: jax.Array) -> jax.Array:
        # Rounding may leave a cosine below -1, which has no real power.
        half = jnp.clip((jax.lax.stop_gradient(cos) + 1.0) / 2.0, 0.0, 1.0)
        return detached(2.0 * half**self.exponent - 1.0, cos)


@jit(static_argnames=("num_classes",))
def initial_bias(
    num_classes: int,
    scale: ScalarLike,
    margin: ScalarLike,
    positive_weight: ScalarLike,
    exponent: ScalarLike,
) -> jax.Array:
    """Gives the bias at which own and other classes of random angles balance."""
    ratio = positive_weight / (1.0 - positive_weight) / (num_classes - 1)
    middle = 2.0 * jnp.power(0.5, exponent) - 1.0
    intercept = scale * (middle + margin)
    gap = -2.0 * scale * margin
    lead = 1.0 - ratio
    root = jnp.sqrt(lead**2 + 4.0 * ratio * jnp.exp(gap))
    # The same root of a quadratic twice; each form cancels for one sign of `lead`.
    plain = jnp.log(jnp.where(lead > 0, lead + root, 1.0))
    turned = jnp.log(4.0 * ratio) + gap - jnp.log(jnp.where(lead > 0, 1.0, root - lead))
    return jnp.log(2.0 * ratio) - intercept - jnp.where(lead > 0, plain, turned)


def sphereface2_initial_bias(
    num_classes: int,
    *,
    scale: ArrayLike = 40.0,
    margin: ArrayLike = 0.4,
    positive_weight: ArrayLike = 0.7,
    exponent: ArrayLike = 3.0,
) -> jax.Array:
    r"""Gives the bias with which SphereFace2 starts.

    .. math::

        \beta_0 = \ln 2z - I - \ln\Bigl(1 - z + \sqrt{(1 - z)^2 + 4 z e^{A - I}}\Bigr),
        \qquad z = \frac{\alpha}{(1 - \alpha)(C - 1)}

    with :math:`A = r (2 \cdot 2^{-\tau} - 1 - m)` and
    :math:`I = r (2 \cdot 2^{-\tau} - 1 + m)`, where all angles are right: there the pull
    to the own class equals the sum of the pushes from the others.

    Args:
      num_classes: the number :math:`C` of classes, at least 2; static.
      scale: the factor :math:`r` of the cosines; positive.
      margin: the margin :math:`m`, at least 0.
      positive_weight: the weight :math:`\alpha` of the own class, between 0 and 1.
      exponent: the power :math:`\tau` of the similarity; positive.

    Returns:
      The bias, a scalar of at least float32.

    Raises:
      ValueError: if there are fewer than 2 classes, or a known number is out of range.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.sphereface2_initial_bias(1000):.4f}")
      7.9429

    References:
      Wen et al., *SphereFace2: Binary Classification is All You Need for Deep Face
      Recognition*, ICLR 2022.
    """
    checks.at_least("num_classes", num_classes, 2)
    numbers = {
        "scale": scale,
        "margin": margin,
        "positive_weight": positive_weight,
        "exponent": exponent,
    }
    for name, interval in SphereFace2Config.ranges.items():
        if name in numbers:
            check_number(name, numbers[name], interval)
    return initial_bias(num_classes, *checks.floating(**numbers))


@jit()
def sphereface_annealing(
    step: ArrayLike,
    *,
    start: ArrayLike = 1000.0,
    end: ArrayLike = 5.0,
    decay: ArrayLike = 0.12,
) -> jax.Array:
    r"""Gives the weight of the plain cosine in SphereFace, step by step.

    .. math:: \lambda_n = \max\bigl(\lambda_\infty, \lambda_0 / (1 + d n)\bigr)

    Args:
      step: the number :math:`n` of steps made, an integer or a real array ``[...]``.
      start: the first weight :math:`\lambda_0`.
      end: the last weight :math:`\lambda_\infty`.
      decay: how fast it falls, :math:`d`.

    Returns:
      The weight, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``step`` is not real.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.sphereface_annealing(0), hypersphere.sphereface_annealing(10_000))
      1000.0 5.0

    References:
      Liu et al., *SphereFace: Deep Hypersphere Embedding for Face Recognition*, CVPR
      2017.
    """
    count = jnp.asarray(step)
    if jnp.issubdtype(count.dtype, jnp.integer):
        count = count.astype(jnp.result_type(float))
    (count,) = checks.floating(step=count)
    count = count.astype(accumulation_dtype(count))
    start, end, decay = cast_leaves((start, end, decay), count.dtype)
    return jnp.maximum(end, start / (1.0 + decay * count))
