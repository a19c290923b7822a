"""Integrators, checked against exact solutions and orders of convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import ops


def decay(time: jax.Array, state: jax.Array) -> jax.Array:
    return -state


def rotation(time: jax.Array, state: dict[str, jax.Array]) -> dict[str, jax.Array]:
    # z' = i z and x' = cos(t): one complex leaf, one real leaf, time-dependent.
    return {"z": 1j * state["z"], "x": jnp.cos(time).astype(state["x"].dtype)}


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_pytrees_with_complex_leaves(method: str, x64: None):
    times = np.linspace(0.0, 2.0, 5)
    y0 = {"z": jnp.array([1.0 + 0j, 2j]), "x": jnp.zeros(())}
    run = jax.jit(
        lambda: ops.integrate(
            rotation, y0, times, method=method, substeps=100, rtol=1e-11, atol=1e-12
        )
    )
    out = run()
    want = np.exp(1j * times)[:, None] * np.array([1.0, 2j])
    np.testing.assert_allclose(out["z"], want, atol=1e-8)
    np.testing.assert_allclose(out["x"], np.sin(times), atol=1e-8)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("rk4", 4)])
def test_order_of_convergence(method: str, order: int, x64: None):
    times = jnp.array([0.0, 1.0])
    errors = [
        abs(
            float(
                ops.integrate(decay, 1.0, times, method=method, substeps=steps)[-1]
                - np.exp(-1.0)
            )
        )
        for steps in (10, 20, 40)
    ]
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.1)


def test_first_entry_is_the_start_and_one_time_is_enough():
    y0 = jnp.array([1.0, 2.0])
    out = ops.integrate(decay, y0, jnp.array([3.0]))
    np.testing.assert_array_equal(out, y0[None])
    out = ops.integrate(decay, y0, jnp.array([3.0, 4.0]))
    np.testing.assert_array_equal(out[0], y0)


def test_derivatives_in_both_modes(x64: None):
    times = jnp.linspace(0.0, 1.0, 3)

    def end(rate: jax.Array) -> jax.Array:
        field = lambda time, state: -rate * state
        return ops.integrate(field, 1.0, times, substeps=20)[-1]

    want = -np.exp(-1.0)
    np.testing.assert_allclose(jax.grad(end)(1.0), want, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(end, (1.0,), (1.0,))[1], want, rtol=1e-7)
    np.testing.assert_allclose(jax.grad(jax.grad(end))(1.0), -want, rtol=1e-6)


def test_a_callable_solver_is_called():
    def solver(field, y0, times):
        return jnp.stack([y0 * t for t in times])

    out = ops.integrate(decay, jnp.array(2.0), jnp.array([1.0, 3.0]), method=solver)
    np.testing.assert_allclose(out, [2.0, 6.0])


def test_keeps_the_dtype_of_the_state():
    out = ops.integrate(
        lambda time, state: -state,
        jnp.ones(2, jnp.bfloat16),
        jnp.linspace(0.0, 1.0, 3),
        substeps=4,
    )
    assert out.dtype == jnp.bfloat16


def test_bad_input():
    times = jnp.linspace(0.0, 1.0, 3)
    with pytest.raises(ValueError, match=r"`times` must have shape.*got \(\)"):
        ops.integrate(decay, 1.0, jnp.array(1.0))
    with pytest.raises(ValueError, match=r"`method` must be one of.*got 'rk5'"):
        ops.integrate(decay, 1.0, times, method="rk5")
    with pytest.raises(ValueError, match=r"`substeps` must be at least 1, got 0"):
        ops.integrate(decay, 1.0, times, substeps=0)
    with pytest.raises(TypeError, match=r"`y0`.*int32"):
        ops.integrate(decay, jnp.arange(2), times)
    with pytest.raises(TypeError, match=r"`times`.*int32"):
        ops.integrate(decay, 1.0, jnp.arange(2))
