"""Examples run as users run JAX: with its default promotion of dtypes and ranks."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def default_promotion():
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
