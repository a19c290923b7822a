"""Checks and conversions shared by the functions on pairs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._types import Coefficients, PairGram
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "broadcast_real",
    "float_leaves",
    "leading_size",
    "real_coefficients",
    "real_gram",
    "same_batch",
    "unit_scale",
]


def broadcast_real(
    where: ArrayLike | None = None, **arrays: ArrayLike
) -> tuple[jax.Array, ...]:
    """Turns real inputs into arrays of one shape and dtype, 0 where masked."""
    reals = checks.floating(**arrays)
    # A Python scalar takes the dtype of the arrays beside it.
    strong = [x for x in reals if not x.aval.weak_type]
    dtype = accumulation_dtype(*(strong or reals))
    try:
        shape = np.broadcast_shapes(*(x.shape for x in reals))
    except ValueError as error:
        listed = ", ".join(
            f"`{name}` {x.shape}" for name, x in zip(arrays, reals, strict=True)
        )
        raise ValueError(
            f"The shapes must broadcast together, got {listed}."
        ) from error
    return tuple(
        masked_fill(jnp.broadcast_to(x.astype(dtype), shape), where) for x in reals
    )


def real_gram(
    gram: PairGram, where: ArrayLike | None = None, **extra: ArrayLike
) -> tuple[PairGram, tuple[jax.Array, ...]]:
    """Brings a Gram and further arrays to one shape and dtype, 0 where masked."""
    named = {f"gram.{name}": value for name, value in gram._asdict().items()}
    arrays = broadcast_real(where, **named, **extra)
    return PairGram(*arrays[:3]), arrays[3:]


def real_coefficients(
    gram: PairGram, coefficients: Coefficients, where: ArrayLike | None
) -> tuple[PairGram, Coefficients]:
    """Brings a Gram and coefficients to one shape and dtype, 0 where masked."""
    named = {f"coefficients.{k}": v for k, v in coefficients._asdict().items()}
    gram, pushes = real_gram(gram, where, **named)
    return gram, Coefficients(*pushes)


def unit_scale(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Divides arrays by a power of two near their largest modulus, entry by entry.

    For results that do not depend on that scale, which therefore counts as constant.
    """
    largest = jnp.abs(arrays[0])
    for array in arrays[1:]:
        largest = jnp.maximum(largest, jnp.abs(array))
    usable = (largest > 0) & jnp.isfinite(largest)
    _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.where(usable, exponent - 1, 0))
    return tuple(array / scale for array in arrays)


def float_leaves(**trees: PyTree) -> None:
    """Raises unless every leaf has a real floating dtype, naming the one that has not."""
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            label = name + jax.tree_util.keystr(path)
            checks.floating(**{label: leaf})


def leading_size(name: str, tree: PyTree) -> int:
    """Gives the size of the leading axis that all leaves share."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"The leaves of `{name}` must share a leading axis, got shapes {shapes}."
        )
    return shapes[0][0]


def same_batch(**trees: Any) -> int:
    """Raises unless all trees hold the same number of examples, which it gives."""
    sizes = {name: leading_size(name, tree) for name, tree in trees.items()}
    if len(set(sizes.values())) != 1:
        names = " and ".join(f"`{name}`" for name in sizes)
        got = " and ".join(str(size) for size in sizes.values())
        raise ValueError(f"{names} must hold as many examples, got {got}.")
    return next(iter(sizes.values()))
