"""A jit decorator that keeps the signature of what it wraps."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import jax

__all__ = ["jit"]

P = ParamSpec("P")
R = TypeVar("R")


def jit(
    *, static_argnames: tuple[str, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function with :func:`jax.jit` and keeps its type for checkers."""
    return lambda function: cast(
        "Callable[P, R]", jax.jit(function, static_argnames=static_argnames)
    )
