"""The von Mises-Fisher density against closed forms and high-precision values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere

# (dimension, concentration, log normalizer, mean cosine), to 40 digits by mpmath.
REFERENCE = [
    (2, 1.0, -2.07379142, 0.44638997),
    (3, 10.0, -9.53529197, 0.90000000412),
    (64, 16.0, 38.8240281381, 0.236409540887),
    (128, 64.0, 112.575425013, 0.414882043766),
    (512, 64.0, 863.998606112, 0.123112566243),
]


@pytest.mark.parametrize(("dim", "kappa", "log_c", "a"), REFERENCE)
def test_reference_values(dim, kappa, log_c, a, x64):
    kappa = jnp.array([kappa])
    got = hypersphere.vmf_log_normalizer(kappa, dim=dim)
    np.testing.assert_allclose(got, log_c, rtol=2e-9)
    got = hypersphere.vmf_mean_resultant(kappa, dim=dim)
    np.testing.assert_allclose(got, a, rtol=1e-8)


@jax.jit
def everything(kappa: jax.Array) -> tuple[jax.Array, ...]:
    a = lambda k: hypersphere.vmf_mean_resultant(k, dim=3)
    slope = jax.vmap(jax.grad(a))(kappa)
    return hypersphere.vmf_log_normalizer(kappa, dim=3), a(kappa), slope


def test_three_dimensions_have_a_closed_form(x64):
    kappa = np.array([1e-3, 0.1, 1.0, 10.0, 300.0])
    log_c, a, slope = everything(jnp.asarray(kappa))
    # log(kappa / (4 pi sinh kappa)), without overflow.
    want = np.log(kappa / (2 * np.pi)) - kappa - np.log1p(-np.exp(-2 * kappa))
    np.testing.assert_allclose(log_c, want, atol=1e-7)
    big = kappa[1:]
    np.testing.assert_allclose(a[1:], 1 / np.tanh(big) - 1 / big, rtol=1e-8)
    with np.errstate(over="ignore"):
        want = 1 / big**2 - 1 / np.sinh(big) ** 2
    np.testing.assert_allclose(slope[1:], want, rtol=1e-7)


def test_the_slope_obeys_its_differential_equation(x64):
    kappa = jnp.array([0.5, 5.0, 50.0])
    _, a, slope = everything(kappa)
    np.testing.assert_allclose(slope, 1 - a**2 - 2 * a / kappa, rtol=1e-8)


@pytest.mark.slow
def test_float32_keeps_the_digits_of_the_slope():
    kappa = np.array([1e-3, 1.0, 100.0, 1e4])
    _, a, slope = everything(jnp.asarray(kappa, jnp.float32))
    np.testing.assert_allclose(a[2:], 1 - 1 / kappa[2:], rtol=1e-6)
    # The formula of the docstring would have lost every digit at the last one.
    np.testing.assert_allclose(slope[2:], kappa[2:] ** -2, rtol=1e-3)
    np.testing.assert_allclose(slope[0], 1 / 3, rtol=1e-5)


@pytest.mark.slow
def test_the_density_integrates_to_one_on_the_circle(x64):
    angles = jnp.linspace(0.0, 2 * jnp.pi, 400, endpoint=False)
    x = 3.0 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    for kappa in (0.0, 2.0, 50.0):
        log_prob = hypersphere.vmf_log_prob(x, jnp.array([[0.6, 0.8]]), kappa)
        total = jnp.sum(jnp.exp(log_prob)) * 2 * jnp.pi / 400
        np.testing.assert_allclose(total, 1.0, rtol=3e-8)


def test_a_zero_vector_has_cosine_zero(x64):
    got = hypersphere.vmf_log_prob(jnp.zeros((1, 3)), jnp.ones((1, 3)), 2.0)
    want = hypersphere.vmf_log_normalizer(2.0, dim=3)
    np.testing.assert_allclose(got[0], want, rtol=1e-12)


def test_the_fit_solves_the_likelihood_equations(x64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)) + np.array([1.5, 0.0, 0.0])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    mean = unit[:50].mean(axis=0)
    length = np.linalg.norm(mean)
    where = jnp.arange(60) < 50
    poisoned = jnp.where(where[:, None], jnp.asarray(x), jnp.nan)
    fit = hypersphere.vmf_fit(poisoned, where=where)
    np.testing.assert_allclose(fit.mean, mean / length, rtol=1e-12)
    kappa = float(fit.kappa)
    np.testing.assert_allclose(1 / np.tanh(kappa) - 1 / kappa, length, rtol=1e-9)


@pytest.mark.slow
def test_the_concentration_of_agreeing_directions_is_infinite():
    fit = hypersphere.vmf_fit(jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    assert np.isinf(fit.kappa)
    np.testing.assert_array_equal(fit.mean, [1.0, 0.0])
