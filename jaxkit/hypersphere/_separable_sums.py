"""The sum over the other classes of a separable loss, in one pass over the classes.

The cotangent of every value is known but for what the caller does with the losses, and
that is nearly always a mean. So the pass that adds up the values computes the gradients
of the mean too. If the caller does something else, the reverse pass finds out: it
rescales the gradients, or computes them again.
"""

import functools

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._active import gradients_of_active, on_active
from jaxkit.hypersphere._slices import (
    Classes,
    Gradients,
    Plan,
    Slice,
    compare,
    cut,
    geometry,
    known,
    pull_back,
    replace_rows,
    scan,
    sweep,
    zeros,
)
from jaxkit.ops import match_varying

__all__ = ["other_total"]


def other_total(
    plan: Plan, classes: Classes, guess: jax.Array, eps: jax.Array
) -> jax.Array:
    """Sums the values of the other classes, shape ``[batch]``.

    `guess` holds the cotangents to expect, 0 for samples that do not count. Classes
    whose slope is below `eps` times its scale may be left out.
    """
    if plan.by_hand:
        return _by_hand(plan, classes, guess, eps)
    add = lambda total, part: total + jnp.sum(compare(classes, part), axis=0)
    return scan(plan, classes, add, jnp.zeros_like(guess))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_hand(
    plan: Plan, classes: Classes, guess: jax.Array, eps: jax.Array
) -> jax.Array:
    sums = lambda part: jnp.sum(compare(classes, part), axis=0)

    def add(total: jax.Array, part: Slice) -> jax.Array:
        active = _active(classes, part, eps)
        return total + on_active(sums, part, active, plan.active_limit)

    return scan(plan, classes, add, jnp.zeros_like(guess))


def _active(classes: Classes, part: Slice, eps: jax.Array) -> jax.Array:
    # Not `cos > bound`: what is NaN must come out as NaN.
    return jnp.any(~(part.cos <= classes.loss.active_cosine(eps)), axis=1)


def _forward(
    plan: Plan, classes: Classes, guess: jax.Array, eps: jax.Array
) -> tuple[jax.Array, tuple]:
    with_loss = any(leaf.perturbed for leaf in jax.tree.leaves(classes.loss))
    classes, guess, eps = known((classes, guess, eps))
    total, gradients = _one_pass(plan, classes, guess, eps, with_loss, None, None)
    return total, (classes, guess, eps, gradients)


def _one_pass(
    plan: Plan,
    classes: Classes,
    cotangent: jax.Array,
    eps: jax.Array,
    with_loss: bool,
    rows: jax.Array | None,
    num_slices: jax.Array | None,
) -> tuple[jax.Array, Gradients]:
    """Gives the values and the gradients of their sum weighted by the cotangents."""
    weigh = lambda values: jnp.broadcast_to(cotangent[None, :], values.shape)

    def evaluate(part: Slice) -> tuple[jax.Array, Gradients]:
        values, gradients = pull_back(classes, part, weigh, with_loss=with_loss)
        return jnp.sum(values, axis=0), gradients

    def step(index: jax.Array) -> tuple[jax.Array, jax.Array, Gradients]:
        part = cut(classes, index, size)
        active = _active(classes, part, eps)
        sums, gradients = gradients_of_active(evaluate, part, active, plan.active_limit)
        return sums, part.start, gradients

    count, size = geometry(classes.class_weights.shape[0], plan.chunk)
    start = zeros(classes, with_loss=with_loss)
    if rows is not None:
        start = start._replace(class_weights=rows)
    init = match_varying(jnp.zeros_like(cotangent), classes.unit), start
    return sweep(step, init, size, count if num_slices is None else num_slices)


def _backward(plan: Plan, residuals: tuple, cotangent: jax.Array) -> tuple:
    classes, guess, eps, guessed = residuals
    count, size = geometry(classes.class_weights.shape[0], plan.chunk)
    factor, is_scaled = _compare_with_guess(cotangent, guess)
    # Loops that may run no time at all, where `lax.cond` would copy all rows.
    rows = _rescale(
        guessed.class_weights,
        factor,
        size,
        jnp.where(is_scaled & (factor != 1), count, 0),
    )
    _, computed = _one_pass(
        plan,
        classes,
        cotangent,
        eps,
        guessed.loss is not None,
        rows,
        jnp.where(is_scaled, 0, count),
    )
    small = jax.tree.map(
        lambda a, b: jnp.where(is_scaled, factor * a, b), guessed[:3], computed[:3]
    )
    gradient = classes._replace(
        **computed._replace(unit=small[0], context=small[1], loss=small[2])._asdict(),
        own=None,
        count=None,
        dtype=None,
    )
    return gradient, None, None


def _compare_with_guess(
    cotangent: jax.Array, guess: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives the factor between the two, and whether it is one for all samples."""
    counts = guess != 0
    ratio = jnp.where(counts, cotangent / jnp.where(counts, guess, 1.0), -jnp.inf)
    # A maximum, not any entry: a batch that is spread over devices is not gathered.
    factor = jnp.where(jnp.any(counts), jnp.max(ratio), 1.0)
    return factor, jnp.all((ratio == factor) | ~counts)


def _rescale(
    rows: jax.Array, factor: jax.Array, size: int, count: jax.Array
) -> jax.Array:
    def body(index: jax.Array, whole: jax.Array) -> jax.Array:
        start = jnp.minimum(index * size, whole.shape[0] - size)
        part = jax.lax.dynamic_slice_in_dim(whole, start, size)
        scaled = (part * factor).astype(whole.dtype)
        return replace_rows(whole, scaled, start, index * size)

    return jax.lax.fori_loop(0, count, body, rows)


_by_hand.defvjp(_forward, _backward, symbolic_zeros=True)
