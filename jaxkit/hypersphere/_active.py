"""The few classes of a slice that are worth a gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._slices import Gradients, Slice

__all__ = ["on_active"]


def on_active(
    evaluate: Callable[[Slice], tuple[Any, Gradients | None]],
    part: Slice,
    active: jax.Array,
    limit: int,
) -> tuple[Any, Gradients | None]:
    """Evaluates a slice on its active classes, or as a whole where they are many.

    `evaluate` gives sums over the rows of a slice, and gradients if it has any.
    """
    size = part.rows.shape[0]
    if not 0 < limit < size:
        return evaluate(part)

    def few(part: Slice) -> tuple[Any, Gradients | None]:
        (chosen,) = jnp.nonzero(active, size=limit, fill_value=size)
        sums, gradients = evaluate(_take(part, chosen))
        if gradients is not None:
            rows = _spread(gradients.class_weights, chosen, size)
            gradients = gradients._replace(class_weights=rows)
        return sums, gradients

    # Both give arrays of the size of a slice: that of all rows would be copied.
    return jax.lax.cond(jnp.sum(active) <= limit, few, evaluate, part)


def _take(part: Slice, chosen: jax.Array) -> Slice:
    take = lambda array, fill: array.at[chosen].get(mode="fill", fill_value=fill)
    return Slice(
        start=part.start,
        rows=take(part.rows, 0),
        inverse=None if part.inverse is None else take(part.inverse, 0),
        cos=take(part.cos, 0),
        excluded=take(part.excluded, True),
    )


def _spread(rows: jax.Array, chosen: jax.Array, size: int) -> jax.Array:
    blank = jnp.zeros_like(rows, shape=(size, rows.shape[1]))
    return blank.at[chosen].set(rows, mode="drop")
