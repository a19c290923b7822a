"""Objectives solved in closed form or with exactly known training dynamics."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxkit import (
    dag,
    distillation,
    entanglement,
    hypersphere,
    mesa,
    ops,
    preference,
    typing,
)

if TYPE_CHECKING:
    from jaxkit import nn

__all__ = [
    "__version__",
    "dag",
    "distillation",
    "entanglement",
    "hypersphere",
    "mesa",
    "nn",
    "ops",
    "preference",
    "typing",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Flax adds two thirds to the import time of JAX: only those who ask pay for it.
    if name == "nn":
        return importlib.import_module("jaxkit.nn")
    raise AttributeError(f"module 'jaxkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
