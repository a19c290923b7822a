"""Fixtures of the distillation tests."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def quick_compile() -> Iterator[None]:
    """Compiles without most optimizations, which for tiny programs cost the most."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
