import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from scipy.integrate import solve_ivp

from jaxkit import mesa, ops

C1, C2 = 1532.007318, 294.0
STARTS = np.array(
    [
        (0.1, 0.1),
        (0.5, 1.5),
        (2.0, 2.0),
        (-0.3, -0.3),
        (-0.5, -1.5),
        (0.4, -0.4),
        (-0.4, 0.4),
        (0.4, -0.4 + 1e-8),
        (0.3, -0.1),
        (0.1, -0.3),
        (0.0, 0.5),
        (0.5, 0.0),
        (-1.0, 0.2),
        (5.0, 0.01),
        (0.01, -5.0),
        (1e-4, 2e-4),
        (0.0, 0.0),
    ]
)
TIMES = np.array([0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0]) / C2


def closed_form(starts, times=TIMES, c1=C1, c2=C2):
    """All starts at once: shapes broadcast."""
    a0, b0 = np.asarray(starts).T[:, :, None]
    return mesa.reduced_flow_solution(a0, b0, c1, c2, times[None])


def exact(start, c1=C1, c2=C2):
    def rhs(_, y):
        rate = c2 - c1 * y[0] * y[1]
        return [y[1] * rate, y[0] * rate]

    return solve_ivp(
        rhs, (0, TIMES[-1]), start, "DOP853", TIMES, rtol=1e-13, atol=1e-15
    ).y


@pytest.mark.usefixtures("x64")
def test_against_an_adaptive_integrator():
    a, b = closed_form(STARTS)
    assert a.shape == b.shape == (len(STARTS), len(TIMES))
    for i, start in enumerate(STARTS):
        error = np.abs(np.array([a[i], b[i]]) - exact(start)).max()
        # Near the separatrix the flow itself amplifies rounding.
        assert error < (3e-11 if 0 < abs(start.sum()) < 1e-6 else 1e-12), start


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("c1", "c2"), [(34.5, 6.0), (98048.468, 4704.0)])
def test_other_constants_against_rk4(c1, c2):
    times = jnp.linspace(0.0, 2.0 / c2, 9)
    starts = STARTS[[0, 1, 5, 8, 16]]

    def field(_, y):
        return mesa.reduced_flow_rhs(y[0], y[1], c1, c2)

    y0 = tuple(jnp.asarray(starts.T))
    expected = ops.integrate(field, y0, times, method="rk4", substeps=2000)
    got = closed_form(starts, times, c1, c2)
    np.testing.assert_allclose(
        np.array(got), np.array(expected).swapaxes(1, 2), atol=1e-8
    )


@pytest.mark.usefixtures("x64")
def test_library_integrator_reaches_1e_minus_11():
    field = lambda _, y: jnp.stack(mesa.reduced_flow_rhs(y[0], y[1], C1, C2))
    starts = jnp.asarray(STARTS[:6].T)
    states = ops.integrate(
        field, starts, jnp.asarray(TIMES), method="dopri5", rtol=1e-13, atol=1e-14
    )
    got = np.array(closed_form(STARTS[:6]))
    np.testing.assert_allclose(got, np.moveaxis(states, 0, -1), atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_invariants_and_limits():
    a, b = closed_form(STARTS, np.array([0.0, 1e-3, 1.0, np.inf]))
    a0, b0 = STARTS.T
    np.testing.assert_allclose(a[:, 0], a0, atol=1e-15)
    np.testing.assert_allclose(b[:, 0], b0, atol=1e-15)
    balance = (a**2 - b**2) - (a0**2 - b0**2)[:, None]
    assert np.abs(balance).max() < 1e-14
    # Signs of a + b and a - b are kept.
    assert ((a + b) * (a0 + b0)[:, None] >= 0).all()
    on_separatrix = a0 + b0 == 0
    limit = np.where(on_separatrix, 0.0, C2 / C1)
    np.testing.assert_allclose((a * b)[:, -1], limit, rtol=1e-13, atol=1e-30)


@pytest.mark.usefixtures("x64")
def test_separatrix_formula_against_reference_values():
    # s0 = 0: p = c2 p0 E / (c2 - c1 p0 (1 - E)), a = -b = sign(a0) sqrt(-p).
    decay = np.exp(-2 * C2 * TIMES)
    p0 = -0.16
    p = C2 * p0 * decay / (C2 - C1 * p0 * (1 - decay))
    a, b = closed_form(STARTS[6:7])
    np.testing.assert_allclose(a[0], -np.sqrt(-p), rtol=1e-12)
    np.testing.assert_allclose(b[0], np.sqrt(-p), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_balanced_formula_against_reference_values():
    # q0 = 0: p = c2 p0 / (c1 p0 + (c2 - c1 p0) exp(-2 c2 tau)).
    p0 = 0.01
    p = C2 * p0 / (C1 * p0 + (C2 - C1 * p0) * np.exp(-2 * C2 * TIMES))
    a, b = closed_form(STARTS[:1])
    np.testing.assert_allclose(a[0], np.sqrt(p), rtol=1e-13)
    np.testing.assert_allclose(b[0], np.sqrt(p), rtol=1e-13)


def stacked(v):
    return jnp.stack(mesa.reduced_flow_solution(*v))


VALUE = jax.jit(jax.vmap(stacked))
FIRST = jax.jit(jax.vmap(jax.jacfwd(stacked)))
SECOND = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(stacked))))

EXTREMES = [
    (a0, b0, C1, C2, tau)
    for a0, b0 in [(0, 0), (0.1, 0.1), (0.1, -0.1), (0.3, 0.1), (9, 1e-3), (1e-8, 0)]
    for tau in (0.0, 1e-3, 1e4, np.inf)
]


@pytest.mark.parametrize("double", [False, True])
def test_derivatives_are_finite_at_the_extremes(double):
    with jax.enable_x64(double):
        points = jnp.asarray(np.array(EXTREMES), float)
        values = VALUE(points)
        for array in (values, FIRST(points), SECOND(points)):
            assert jnp.isfinite(array).all()
        assert values.dtype == (jnp.float64 if double else jnp.float32)


@pytest.mark.usefixtures("x64")
def test_derivatives_against_differences_and_the_right_side():
    starts = [*STARTS[:7], (0, 0), (3.0, 0.1), (0.1, -3.0), (0.0, 0.5), (1e-3, 2e-3)]
    points = jnp.asarray(
        np.array([(*s, 2.0, 3.0, t) for s in starts for t in (0.1, 0.7)])
    )
    first, second, step = FIRST(points), SECOND(points), 1e-5
    a, b = VALUE(points).T
    rhs = mesa.reduced_flow_rhs(a, b, 2.0, 3.0)
    np.testing.assert_allclose(first[..., 4].T, np.array(rhs), rtol=1e-10, atol=1e-12)
    for i in range(5):
        shift = step * jnp.eye(5)[i][None]
        up, down = points + shift, points - shift
        by_value = (VALUE(up) - VALUE(down)) / (2 * step)
        np.testing.assert_allclose(first[..., i], by_value, rtol=1e-7, atol=1e-8)
        by_slope = (FIRST(up) - FIRST(down)) / (2 * step)
        np.testing.assert_allclose(second[..., i], by_slope, rtol=1e-6, atol=1e-6)


def test_float32_keeps_the_product_of_unbalanced_starts():
    # The difference (s - q)/2 alone would lose three digits of b here.
    a, b = closed_form(np.array([(100.0, 0.5), (0.01, -5.0), (2.0, 2.0)], np.float32))
    assert a.dtype == jnp.float32
    exact_rows = [exact(start)[:, -1] for start in [(100.0, 0.5), (0.01, -5.0), (2, 2)]]
    expected = np.array([y[0] * y[1] for y in exact_rows])
    np.testing.assert_allclose((a * b)[:, -1], expected, rtol=1e-6)


def test_bfloat16_starts_are_solved_in_float32():
    a, _ = mesa.reduced_flow_solution(
        jnp.bfloat16(0.5), jnp.bfloat16(0.25), C1, C2, jnp.bfloat16(1.0)
    )
    assert a.dtype == jnp.float32


def test_bad_arguments():
    with pytest.raises(ValueError, match="`c1` must be positive, got 0"):
        mesa.reduced_flow_solution(0.1, 0.1, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="`c2` must be positive, got -1"):
        mesa.reduced_flow_solution(0.1, 0.1, 1.0, jnp.array([1.0, -1.0]), 1.0)
    with pytest.raises(ValueError, match="must broadcast together"):
        mesa.reduced_flow_rhs(jnp.ones(2), jnp.ones(3), 1.0, 1.0)
    with pytest.raises(TypeError, match="`a` must have a real"):
        mesa.reduced_flow_rhs(jnp.array(1j), 1.0, 1.0, 1.0)
    solve = lambda c1: mesa.reduced_flow_solution(0.1, 0.1, c1, 1.0, 1.0)
    error, _ = checkify.checkify(jax.jit(solve))(-1.0)
    with pytest.raises(checkify.JaxRuntimeError, match="`c1` must be positive"):
        error.throw()
