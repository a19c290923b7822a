"""Masks, checked against NumPy on the entries that count."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import ops

VALUES = np.array([[1.0, np.nan, 3.0], [np.inf, np.nan, np.nan], [2.0, 4.0, 6.0]])
MASK = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)


def test_sums_and_means_see_only_what_counts():
    values, mask = jnp.asarray(VALUES, jnp.float32), jnp.asarray(MASK)
    np.testing.assert_allclose(ops.masked_sum(values, axis=1, where=mask), [4, 0, 12])
    np.testing.assert_allclose(ops.masked_mean(values, axis=1, where=mask), [2, 0, 4])
    np.testing.assert_allclose(ops.masked_mean(values, where=mask), 16 / 5)


def test_the_mask_broadcasts():
    column = jnp.array([[True], [False], [True]])
    values = jnp.arange(9.0).reshape(3, 3)
    np.testing.assert_allclose(ops.masked_mean(values, axis=0, where=column), [3, 4, 5])


def test_bfloat16_sums_are_kept_in_float32():
    ones = jnp.ones(4096, jnp.bfloat16)
    total = ops.masked_sum(ones)
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(total, 4096)


def test_the_double_where_keeps_the_gradient_finite():
    def masked_log(x: jax.Array) -> jax.Array:
        safe = ops.masked_fill(x, x > 0, fill=1.0)
        return jnp.sum(ops.masked_fill(jnp.log(safe), x > 0))

    gradient = jax.grad(masked_log)(jnp.array([0.0, -1.0, 4.0]))
    np.testing.assert_allclose(gradient, [0, 0, 0.25])


def test_division_by_zero_gives_the_fill_and_no_gradient():
    x, z = jnp.array([1.0, 6.0]), jnp.array([0.0, 3.0])
    np.testing.assert_allclose(ops.safe_divide(x, z, fill=7.0), [7, 2])
    total = lambda x, z: jnp.sum(ops.safe_divide(x, z))
    dx, dz = jax.grad(total, argnums=(0, 1))(x, z)
    np.testing.assert_allclose(dx, [0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(dz, [0, -6 / 9], rtol=1e-6)
