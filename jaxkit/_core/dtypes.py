"""Result dtypes, the same whether implicit promotion is strict or standard."""

import jax
import jax.numpy as jnp

__all__ = ["accumulation_dtype", "promoted_dtype"]


def promoted_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype that holds values of all arrays."""
    # Under strict promotion jnp.promote_types refuses float32 with float64.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(array.dtype for array in arrays))


def accumulation_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The promoted dtype, at least float32: what sums and products are kept in."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(promoted_dtype(*arrays), jnp.float32)
