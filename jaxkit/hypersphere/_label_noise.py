"""Wrong labels: how to make them for an experiment, and how to find them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill, masked_mean
from jaxkit.typing import ArrayLike, Key

__all__ = ["FlippedLabels", "clean_label_probability", "flip_labels"]


class FlippedLabels(NamedTuple):
    """Labels of which some are wrong.

    Attributes:
      labels: the labels, integers ``[...]``.
      flipped: which of them are wrong, bool ``[...]``.
    """

    labels: jax.Array
    flipped: jax.Array


@jit(static_argnames=("num_classes",))
def flip_labels(
    key: Key, labels: ArrayLike, *, num_classes: int, rate: ArrayLike
) -> FlippedLabels:
    r"""Replaces each label with some probability by that of another class.

    .. math::

        P(\tilde y = y) = 1 - \rho, \qquad
        P(\tilde y = j) = \frac{\rho}{C - 1} \quad (j \ne y)

    Symmetric noise in which every flip is wrong. (Where the new class is drawn from all
    ``C``, a rate of :math:`\rho` flips only :math:`\rho (C - 1) / C`.)

    Args:
      key: the random key.
      labels: integers ``[...]``; a negative one stays as it is.
      num_classes: the number ``C`` of classes, at least 2; static.
      rate: the probability :math:`\rho`, from 0 to 1, a scalar.

    Returns:
      The new labels, and which of them are wrong.

    Raises:
      TypeError: if ``key`` is no typed key, or ``labels`` not of integer dtype.
      ValueError: if ``num_classes`` is less than 2.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> labels = jnp.zeros(1000, jnp.int32)
      >>> noisy = hypersphere.flip_labels(
      ...     jax.random.key(0), labels, num_classes=3, rate=0.4
      ... )
      >>> print(bool(jnp.all((noisy.labels != 0) == noisy.flipped)))
      True
    """
    checks.typed_key(key)
    checks.at_least("num_classes", num_classes, 2)
    checks.within("rate", rate, low=0.0, high=1.0)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {labels.dtype}.")
    (rate,) = checks.floating(rate=rate)
    checks.broadcastable("rate", rate, ())
    draw_key, shift_key = jax.random.split(key)
    rate = rate.astype(accumulation_dtype(rate))
    draw = jax.random.uniform(draw_key, labels.shape, rate.dtype)
    flipped = (draw < rate) & (labels >= 0)
    wide = labels.astype(int)
    shift = jax.random.randint(shift_key, labels.shape, 1, num_classes, wide.dtype)
    moved = ((wide + shift) % num_classes).astype(labels.dtype)
    return FlippedLabels(jnp.where(flipped, moved, labels), flipped)


@jit(static_argnames=("num_steps",))
def clean_label_probability(
    angles: ArrayLike, *, num_steps: int = 50, where: ArrayLike | None = None
) -> jax.Array:
    r"""Probability that each label is right, from the angles to the own class.

    .. math::

        P_i = \frac{\pi\, \mathcal N(\theta_i; \mu_1, \sigma^2)}
            {\pi\, \mathcal N(\theta_i; \mu_1, \sigma^2)
            + (1 - \pi)\, \mathcal N(\theta_i; \mu_2, \sigma^2)}, \qquad
        \mu_1 \le \mu_2

    Samples with wrong labels end far from the weight of the class they claim. Two normal
    distributions of one common width are fitted to the angles by the EM algorithm; the
    component of the smaller angles is taken for the clean one. The common width makes
    the probability fall with the angle, so that it ranks samples as the angle does. A
    mixture always finds two components: without wrong labels the probabilities mean
    nothing.

    Args:
      angles: the target angle of each sample in radians, shape ``[N]``, see
        :func:`target_angle`.
      num_steps: steps of EM; static.
      where: which samples count, bool ``[N]``; the others may hold NaN.

    Returns:
      The probabilities ``[N]``, at least float32; 0 where nothing counts, and 1 for all
      if all angles are equal.

    Raises:
      TypeError: if ``angles`` is not real, or ``where`` not bool.
      ValueError: if ``angles`` is not ``[N]`` or ``num_steps`` less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> angles = jnp.array([0.3, 0.4, 0.35, 1.5, 1.6])
      >>> print(hypersphere.clean_label_probability(angles).round(3))
      [1. 1. 1. 0. 0.]

    References:
      Arazo et al., *Unsupervised Label Noise Modeling and Loss Correction*, ICML 2019
      (a mixture of two components; theirs are beta distributions of the loss).
    """
    (angles,) = checks.floating(angles=angles)
    if angles.ndim != 1:
        raise ValueError(f"`angles` must have shape (N,), got {angles.shape}.")
    checks.at_least("num_steps", num_steps, 1)
    mask = checks.mask("where", where, angles.shape)
    x = masked_fill(angles.astype(accumulation_dtype(angles)), mask)
    center = masked_mean(x, where=mask)
    spread = masked_mean(jnp.square(x - center), where=mask)
    # A width far below that of the data: components may not shrink to points.
    least = 1e-4 * spread + jnp.finfo(x.dtype).tiny

    def clean_log_odds(means: jax.Array, variance: jax.Array, share: jax.Array):
        distances = jnp.square(x[:, None] - means[None, :])
        log_ratio = (distances[:, 1] - distances[:, 0]) / (2.0 * variance)
        return log_ratio + jnp.log(share) - jnp.log1p(-share)

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        clean = jax.nn.sigmoid(clean_log_odds(*state))
        weights = jnp.stack([clean, 1.0 - clean], axis=-1)
        weights = masked_fill(weights, mask[:, None])
        totals = jnp.sum(weights, axis=0)
        means = jnp.sum(weights * x[:, None], axis=0) / jnp.maximum(totals, 1e-6)
        distances = jnp.square(x[:, None] - means[None, :])
        number = jnp.maximum(jnp.sum(totals), 1.0)
        variance = jnp.sum(weights * distances) / number
        share = jnp.clip(totals[0] / number, 1e-3, 1.0 - 1e-3)
        return means, jnp.maximum(variance, least), share

    width = jnp.sqrt(spread)
    start = (
        jnp.stack([center - width, center + width]),
        jnp.maximum(spread, least),
        jnp.full((), 0.5, x.dtype),
    )
    state = jax.lax.fori_loop(0, num_steps, step, start)
    clean = jax.nn.sigmoid(clean_log_odds(*state))
    return masked_fill(jnp.where(spread > 0, clean, 1.0), mask)
