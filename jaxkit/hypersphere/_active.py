"""The few classes of a slice that are worth a gradient."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._slices import Gradients, Slice

__all__ = ["gradients_of_active", "on_active"]

Out = TypeVar("Out")
Sums = TypeVar("Sums")


def on_active(
    evaluate: Callable[[Slice], Out],
    part: Slice,
    active: jax.Array,
    limit: int,
    *,
    spread: Callable[[Out, jax.Array], Out] = lambda out, chosen: out,
) -> Out:
    """Evaluates a slice on its active classes, or as a whole where they are many.

    `spread` puts what is there of every row back in its place.
    """
    size = part.rows.shape[0]
    if not 0 < limit < size:
        return evaluate(part)

    def few(part: Slice) -> Out:
        (chosen,) = jnp.nonzero(active, size=limit, fill_value=size)
        return spread(evaluate(_take(part, chosen)), chosen)

    # Both give arrays of the size of a slice: that of all rows would be copied.
    return jax.lax.cond(jnp.sum(active) <= limit, few, evaluate, part)


def gradients_of_active(
    evaluate: Callable[[Slice], tuple[Sums, Gradients]],
    part: Slice,
    active: jax.Array,
    limit: int,
) -> tuple[Sums, Gradients]:
    """The same of something with gradients, which are 0 for the other classes."""

    def spread(
        out: tuple[Sums, Gradients], chosen: jax.Array
    ) -> tuple[Sums, Gradients]:
        sums, gradients = out
        rows = gradients.class_weights
        blank = jnp.zeros_like(rows, shape=part.rows.shape)
        placed = blank.at[chosen].set(rows, mode="drop")
        return sums, gradients._replace(class_weights=placed)

    return on_active(evaluate, part, active, limit, spread=spread)


def _take(part: Slice, chosen: jax.Array) -> Slice:
    take = lambda array, fill: array.at[chosen].get(mode="fill", fill_value=fill)
    return Slice(
        start=part.start,
        rows=take(part.rows, 0),
        inverse=None if part.inverse is None else take(part.inverse, 0),
        cos=take(part.cos, 0),
        excluded=take(part.excluded, True),
    )
