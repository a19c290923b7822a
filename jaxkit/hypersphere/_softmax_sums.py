"""The normalizer over the other classes of a softmax loss, in two passes over them.

The first pass keeps a running maximum and a sum of exponentials for each sample; the
second computes every logit again, now with its probability, and both gradients.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxkit.hypersphere._active import gradients_of_active
from jaxkit.hypersphere._slices import (
    Classes,
    Gradients,
    Plan,
    Slice,
    as_row,
    compare,
    cut,
    geometry,
    known,
    pull_back,
    scan,
    sweep,
    zeros,
)

__all__ = ["Exponentials", "excess", "other_exponentials"]

_LOWEST = -1e30
"""The logit of what is left out: inf - inf would be NaN."""


class Exponentials(NamedTuple):
    """What is kept of the logits of the other classes.

    Attributes:
      maximum: the largest less the anchor, at least 0, ``[batch]``; has no gradient.
      total: sum of the exponentials of the logits less anchor and maximum, ``[batch]``.
      plain: sum of the logits themselves, ``[batch]``; 0 unless asked for.
    """

    maximum: jax.Array
    total: jax.Array
    plain: jax.Array


def other_exponentials(
    plan: Plan, classes: Classes, anchor: jax.Array, eps: jax.Array, *, plain: bool
) -> Exponentials:
    """Sums over the other classes.

    Classes with less than the probability `eps` for every sample may get no gradient.
    """
    if plan.by_hand:
        return _by_hand(plan, plain, classes, anchor, eps)
    return _sums(plan, plain, classes, anchor)


def excess(sums: Exponentials) -> jax.Array:
    r"""Gives :math:`\log(1 + \sum_j e^{z_j - a})`, with all digits where it is small."""
    maximum = jax.lax.stop_gradient(sums.maximum)
    return maximum + jnp.log1p(jnp.expm1(-maximum) + sums.total)


def _sums(plan: Plan, plain: bool, classes: Classes, anchor: jax.Array) -> Exponentials:
    def add(sums: Exponentials, part: Slice) -> Exponentials:
        logits = compare(classes, part)
        relative = jnp.where(part.excluded, _LOWEST, logits - anchor[None, :])
        largest = jax.lax.stop_gradient(jnp.max(relative, axis=0))
        maximum = jnp.maximum(sums.maximum, largest)
        total = sums.total * jnp.exp(sums.maximum - maximum)
        total += jnp.sum(jnp.exp(relative - maximum[None, :]), axis=0)
        added = sums.plain + jnp.sum(logits, axis=0) if plain else sums.plain
        return Exponentials(maximum, total, added)

    start = jnp.zeros_like(anchor)
    return scan(plan, classes, add, Exponentials(start, start, start))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_hand(
    plan: Plan, plain: bool, classes: Classes, anchor: jax.Array, eps: jax.Array
) -> Exponentials:
    return _sums(plan, plain, classes, anchor)


def _forward(
    plan: Plan, plain: bool, classes: Classes, anchor: jax.Array, eps: jax.Array
) -> tuple[Exponentials, tuple]:
    with_loss = any(leaf.perturbed for leaf in jax.tree.leaves(classes.loss))
    classes, anchor, eps = known((classes, anchor, eps))
    sums = _sums(plan, plain, classes, anchor)
    # A mark that survives as a residual, which has to be a pytree of arrays.
    return sums, (classes, anchor, eps, sums, () if with_loss else None)


def _backward(
    plan: Plan, plain: bool, residuals: tuple, cotangents: Exponentials
) -> tuple:
    classes, anchor, eps, sums, with_loss = residuals
    d_total, d_plain = (
        _array(cotangent, anchor) for cotangent in (cotangents.total, cotangents.plain)
    )
    shift = anchor + sums.maximum

    def weigh(logits: jax.Array) -> jax.Array:
        slopes = d_total[None, :] * jnp.exp(logits - shift[None, :])
        return slopes + d_plain[None, :] if plain else slopes

    def evaluate(part: Slice) -> tuple[tuple, Gradients]:
        gradients = pull_back(classes, part, weigh, with_loss=with_loss is not None)[1]
        return (), gradients

    # In the logarithm, relative to the normalizer of these classes and the own one.
    bound = shift + jnp.log(eps) + jnp.log(jnp.exp(-sums.maximum) + sums.total)
    bound = jnp.where(d_total == 0, jnp.inf, bound)

    def step(index: jax.Array) -> tuple[tuple, jax.Array, Gradients]:
        part = cut(classes, index, size)
        active = jnp.zeros(size, bool)
        limit = 0 if plain else plan.active_limit
        if limit:
            logits = classes.loss.other(part.cos, as_row(classes.context))
            active = jnp.any(~(logits <= bound[None, :]) & ~part.excluded, axis=1)
        return (), part.start, gradients_of_active(evaluate, part, active, limit)[1]

    count, size = geometry(classes.class_weights.shape[0], plan.chunk)
    start = zeros(classes, with_loss=with_loss is not None)
    _, total = sweep(step, ((), start), size, count)
    gradient = classes._replace(**total._asdict(), own=None, count=None, dtype=None)
    return gradient, -d_total * sums.total, None


def _array(cotangent: jax.Array | SymbolicZero, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if isinstance(cotangent, SymbolicZero) else cotangent


_by_hand.defvjp(_forward, _backward, symbolic_zeros=True)
