"""What to watch while a loss with class weights trains."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.hypersphere._inputs import refuse_labels
from jaxkit.hypersphere._protocol import ClassLoss
from jaxkit.hypersphere._sface_config import SFaceConfig
from jaxkit.hypersphere._slices import Plan, Slice, as_row, scan
from jaxkit.hypersphere._streaming import (
    Prepared,
    check_plan,
    losses,
    prepare,
    product_dtype,
    read_large,
)
from jaxkit.ops import masked_mean
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = ["HypersphereMetrics", "loss_with_metrics"]


class HypersphereMetrics(NamedTuple):
    """Means over the samples that count, without gradients.

    For a loss of plain inner products these stand in the place of cosines, and the
    angle means nothing.

    Attributes:
      mean_target_cos: the cosine to the own class.
      mean_other_cos: the cosine to another class.
      mean_target_angle: the angle to the own class, in radians.
      intra: the part of the loss that the own class decides alone.
      inter: the rest of the loss.
      potential: the potential of SFace, which falls as training proceeds while the
        loss itself may rise; the loss for all other losses.
      accuracy: the share of samples that no other class is closer to than the own one.
      active_fraction: the share of the other classes with a slope, or for a softmax a
        probability, of at least ``active_eps``.
    """

    mean_target_cos: jax.Array
    mean_other_cos: jax.Array
    mean_target_angle: jax.Array
    intra: jax.Array
    inter: jax.Array
    potential: jax.Array
    accuracy: jax.Array
    active_fraction: jax.Array


def loss_with_metrics(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    *,
    class_chunk: int | None = None,
    active_limit: int = 0,
    active_eps: ArrayLike = 1e-6,
    state: PyTree = None,
    key: Key | None = None,
    compute_dtype: DTypeLike | None = None,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, HypersphereMetrics]:
    r"""Computes the losses of :func:`streaming_loss` and what to watch beside them.

    .. math::

        \frac1B \sum_i \cos\theta_{y_i}, \qquad
        \frac1{B (C - 1)} \sum_i \sum_{j \ne y_i} \cos\theta_{ij}, \qquad
        \dots

    The metrics take a pass over the classes of their own: one more product, and for
    SFace the potential, so they are best computed every so many steps.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 for none.
      config: the loss and its hyper-parameters.
      class_chunk: most classes of a slice; see :func:`streaming_loss`.
      active_limit: most classes of a slice that are computed as active ones.
      active_eps: what active means, from 0 up to 1.
      state: what an adaptive loss has learned of earlier batches.
      key: a typed random key, for losses with random margins.
      compute_dtype: the dtype of the factors of the products with the class weights.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The loss of each sample, shape ``[batch]``, and the :class:`HypersphereMetrics`,
      scalars; 0 where nothing counts.

    Raises:
      TypeError: if an array has the wrong kind of dtype, or a key is missing.
      ValueError: if shapes do not fit, or a size, a known label or a known
        hyper-parameter is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x, labels = jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.array([1, 0])
      >>> config = hypersphere.SFaceConfig.small_scale()
      >>> _, metrics = hypersphere.loss_with_metrics(x, jnp.eye(2), labels, config)
      >>> print(f"{metrics.mean_target_cos:.3f} {metrics.accuracy:.1f}")
      0.854 1.0
    """
    config.check()
    refuse_labels(labels, class_weights)
    plan = check_plan(class_chunk, active_limit, active_eps, False)
    return _loss_with_metrics(
        embeddings,
        class_weights,
        labels,
        config,
        active_eps,
        state,
        key,
        where,
        plan=plan,
        compute_dtype=compute_dtype,
    )


@jit(static_argnames=("plan", "compute_dtype"))
def _loss_with_metrics(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    active_eps: ArrayLike,
    state: PyTree,
    key: Key | None,
    where: ArrayLike | None,
    *,
    plan: Plan,
    compute_dtype: DTypeLike | None,
) -> tuple[jax.Array, HypersphereMetrics]:
    ready = prepare(
        plan,
        read_large(embeddings, class_weights, labels, where),
        config,
        state=state,
        key=key,
        active_eps=active_eps,
        dtype=product_dtype(embeddings, class_weights, compute_dtype),
    )
    values, normalizer = losses(plan, ready)
    frozen = jax.lax.stop_gradient((ready, values, normalizer))
    return values, _measure(plan, *frozen)


class _Sums(NamedTuple):
    """Sums over the other classes, shape ``[batch]``."""

    cos: jax.Array
    largest: jax.Array
    active: jax.Array
    potential: jax.Array


def _measure(
    plan: Plan, ready: Prepared, values: jax.Array, normalizer: jax.Array | None
) -> HypersphereMetrics:
    batch, sample, terms, classes, _ = ready
    bound = _active_bound(ready, normalizer)
    potential = None
    if isinstance(classes.loss, SFaceConfig):
        potential = dataclasses.replace(classes.loss, form="potential")

    def add(sums: _Sums, part: Slice) -> _Sums:
        others = ~part.excluded
        level = part.cos
        if classes.loss.kind == "softmax":
            level = classes.loss.other(part.cos, as_row(classes.context))
        active = others & ~(level < bound[None, :])
        count = lambda mask: jnp.sum(mask, axis=0, dtype=jnp.int32)
        added = sums.potential
        if potential is not None:
            push = potential.other(part.cos, ())
            added += jnp.sum(jnp.where(others, push, 0.0), axis=0)
        return _Sums(
            sums.cos + jnp.sum(part.cos, axis=0),
            jnp.maximum(
                sums.largest, jnp.max(jnp.where(others, part.cos, -jnp.inf), axis=0)
            ),
            sums.active + count(active).astype(sums.active.dtype),
            added,
        )

    zero = jnp.zeros_like(terms.value)
    sums = scan(plan, classes, add, _Sums(zero, zero - jnp.inf, zero, zero))
    num_others = max(classes.class_weights.shape[0] - 1, 1)
    mean = lambda leaf: masked_mean(leaf, where=batch.where)
    own = sample.angle
    if potential is None:
        energy = values
    else:
        energy = potential.terms(sample, num_others + 1).value + sums.potential
    return HypersphereMetrics(
        mean_target_cos=mean(own.cos),
        mean_other_cos=mean(sums.cos) / num_others,
        mean_target_angle=mean(own.theta),
        intra=mean(terms.value),
        inter=mean(values - terms.value),
        potential=mean(energy),
        accuracy=mean((own.cos >= sums.largest).astype(zero.dtype)),
        active_fraction=mean(sums.active) / num_others,
    )


def _active_bound(ready: Prepared, normalizer: jax.Array | None) -> jax.Array:
    """From what cosine or logit on another class counts as active, ``[batch]``."""
    terms = ready.terms
    if normalizer is None or terms.anchor is None:
        bound = ready.classes.loss.active_cosine(ready.eps)
        return jnp.broadcast_to(bound, terms.value.shape)
    return terms.anchor + normalizer + jnp.log(ready.eps)
