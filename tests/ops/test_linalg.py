"""Solves, checked against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import ops


def hermitian(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
    return root @ root.conj().T + np.eye(n)


def test_cholesky_solve_equals_numpy(x64: None):
    rng = np.random.default_rng(0)
    matrix = np.stack([hermitian(rng, 4) for _ in range(2)])
    rhs = rng.standard_normal((2, 4, 3)) + 1j * rng.standard_normal((2, 4, 3))
    got = ops.cholesky_solve(matrix, rhs)
    np.testing.assert_allclose(got, np.linalg.solve(matrix, rhs), rtol=1e-11)


def test_only_the_lower_triangle_is_read(x64: None):
    rng = np.random.default_rng(1)
    matrix = hermitian(rng, 3)
    rhs = rng.standard_normal((3, 1))
    got = ops.cholesky_solve(np.tril(matrix), rhs)
    np.testing.assert_allclose(got, np.linalg.solve(matrix, rhs), rtol=1e-11)


def test_derivative_along_a_hermitian_direction(x64: None):
    rng = np.random.default_rng(2)
    matrix, direction = hermitian(rng, 3), hermitian(rng, 3)
    rhs = rng.standard_normal((3, 1))
    _, slope = jax.jvp(
        lambda m: ops.cholesky_solve(m, rhs),
        (jnp.asarray(matrix),),
        (jnp.asarray(direction),),
    )
    inverse = np.linalg.inv(matrix)
    want = -inverse @ direction @ inverse @ rhs
    np.testing.assert_allclose(slope, want, rtol=1e-9, atol=1e-12)


def test_an_indefinite_matrix_gives_nan_not_an_exception():
    assert bool(jnp.all(jnp.isnan(ops.cholesky_solve(-jnp.eye(2), jnp.ones((2, 1))))))


def test_squared_distances_equal_differences(x64: None):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 4, 3))
    expected = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(ops.squared_distances(x, y), expected, rtol=1e-12)


def test_a_common_offset_costs_no_digits():
    rng = np.random.default_rng(3)
    x, y = (rng.integers(-8, 8, (n, 3)).astype(np.float32) for n in (5, 4))
    expected = ((x[:, None] - y[None]) ** 2).sum(-1)
    got = ops.squared_distances(x + 4096.0, y + 4096.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_coincident_rows_are_apart_by_zero_with_zero_slope():
    x = jnp.array([[0.3, -1.7]])
    assert float(ops.squared_distances(x, x)[0, 0]) == 0.0
    slope = jax.grad(lambda x: jnp.sum(ops.squared_distances(x, x[:1] * 1.0)))(x)
    np.testing.assert_array_equal(slope, 0.0)
