"""Checks and conversions shared by the few-shot files."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.typing import ArrayLike

__all__ = [
    "covariance_arrays",
    "few_shot_arrays",
    "few_shot_prompt",
    "preconditioner_array",
]


def covariance_arrays(
    covariance: ArrayLike, **scalars: ArrayLike
) -> tuple[jax.Array, list[jax.Array]]:
    """Checks a covariance and scalars, and gives them one dtype, at least float32."""
    (covariance,) = checks.floating(covariance=covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(
            f"`covariance` must have shape (dim, dim), got {covariance.shape}."
        )
    dtype = accumulation_dtype(covariance)
    arrays = checks.floating(**scalars)
    for name, array in zip(scalars, arrays, strict=True):
        checks.shape(name, array, ())
        if array.ndim:
            raise ValueError(f"`{name}` must be a scalar, got shape {array.shape}.")
    return covariance.astype(dtype), [array.astype(dtype) for array in arrays]


def few_shot_arrays(
    inputs: ArrayLike, targets: ArrayLike, query: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks the parts of a prompt and gives them one dtype, at least float32."""
    inputs, targets, query = checks.floating(
        inputs=inputs, targets=targets, query=query
    )
    checks.axis_size("inputs", inputs, -2, 1)
    checks.axis_size("inputs", inputs, -1, 1)
    for name, array, shape in (
        ("targets", targets, inputs.shape[:-1]),
        ("query", query, (*inputs.shape[:-2], inputs.shape[-1])),
    ):
        if array.shape != shape:
            raise ValueError(
                f"`{name}` must have shape {shape} for `inputs` of shape "
                f"{inputs.shape}, got {array.shape}."
            )
    dtype = accumulation_dtype(inputs, targets, query)
    return inputs.astype(dtype), targets.astype(dtype), query.astype(dtype)


def few_shot_prompt(
    inputs: jax.Array, targets: jax.Array, query: jax.Array
) -> jax.Array:
    """Stacks examples and query to tokens ``(x, y)``, ``[..., N + 1, dim + 1]``."""
    x = jnp.concatenate([inputs, query[..., None, :]], axis=-2)
    y = jnp.concatenate([targets, jnp.zeros_like(targets[..., :1])], axis=-1)
    return jnp.concatenate([x, y[..., None]], axis=-1)


def preconditioner_array(name: str, value: ArrayLike, inputs: jax.Array) -> jax.Array:
    """Checks one square matrix, or a stack of them, against the inputs."""
    (matrix,) = checks.floating(**{name: value})
    dim = inputs.shape[-1]
    checks.shape(name, matrix, (dim, dim))
    return matrix.astype(inputs.dtype)
