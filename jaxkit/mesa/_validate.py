"""Checks and conversions shared by the theory files."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.typing import ArrayLike, DTypeLike

__all__ = ["broadcast_real", "real_dtype"]


def real_dtype(dtype: DTypeLike) -> np.dtype:
    """Gives the dtype of the real part."""
    return jnp.finfo(dtype).dtype


def broadcast_real(**arrays: ArrayLike) -> list[jax.Array]:
    """Turns real inputs into arrays of one shape and one dtype, at least float32."""
    reals = checks.floating(**arrays)
    # A Python scalar takes the dtype of the arrays beside it.
    strong = [x for x in reals if not x.aval.weak_type]
    dtype = accumulation_dtype(*(strong or reals))
    _check_shapes(tuple(arrays), reals)
    return jnp.broadcast_arrays(*(x.astype(dtype) for x in reals))


def _check_shapes(names: Sequence[str], arrays: Sequence[jax.Array]) -> None:
    try:
        np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError as error:
        listed = ", ".join(
            f"`{name}` {x.shape}" for name, x in zip(names, arrays, strict=True)
        )
        raise ValueError(
            f"The shapes must broadcast together, got {listed}."
        ) from error
