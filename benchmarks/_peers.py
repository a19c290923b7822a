"""What the benchmarks share: optional peers, sizes, gradients."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax

from benchmarks._harness import Program

__all__ = ["attempt", "optional_module", "pull_back", "within"]


def optional_module(name: str) -> ModuleType | None:
    """Imports a peer that need not be installed."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        return None
    return importlib.import_module(name)


def within(lengths: Sequence[int], limit: int | None) -> list[int]:
    """Drops the lengths above the limit; never all of them."""
    if limit is None:
        return list(lengths)
    return [n for n in lengths if n <= limit] or [limit]


def attempt(name: str, compile_it: Callable[[], Program]) -> list[Program]:
    """Leaves out a peer that does not compile here: kernels fit few devices."""
    try:
        return [compile_it()]
    except Exception as error:
        print(f"{name} left out: {str(error).splitlines()[0]}")
        return []


def pull_back(function: Callable) -> Callable:
    """Turns ``f`` into ``(cotangent, *args) -> f(*args)`` and its gradients."""

    def both(cotangent: jax.Array, *args: Any) -> tuple:
        out, pull = jax.vjp(function, *args)
        return out, *pull(cotangent)

    return both
