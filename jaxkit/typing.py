"""Type aliases used in the signatures of jaxkit."""

from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike, DTypeLike

__all__ = ["ArrayLike", "DTypeLike", "Key", "PrecisionLike", "PyTree", "ScalarLike"]

PyTree: TypeAlias = Any
"""Any nesting of containers that JAX knows, with arrays at the leaves."""

Key: TypeAlias = jax.Array
"""A typed random key, as made by :func:`jax.random.key`."""

PrecisionLike: TypeAlias = jax.lax.PrecisionLike
"""What the ``precision=`` argument of a matrix product may be."""

ScalarLike: TypeAlias = jax.Array | float
"""A single real number: a hyper-parameter, plain or traced."""
