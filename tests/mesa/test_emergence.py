import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")

SKEWED = (
    np.array(list(itertools.product([2.0, -1.0], repeat=2))),
    np.array([1, 2, 2, 4]) / 9,
)
EXPONENTS = [(3, 1), (5, 1), (4, 1, 1), (3, 2, 1), (2, 2, 1, 1)]


def worst(u, weights, exponents):
    """The largest mean of a monomial with these exponents, by brute force."""
    u = u / np.sqrt(np.sum(weights[:, None] * u**2) / u.shape[1])
    return max(
        abs(np.sum(weights * np.prod(u[:, list(index)] ** exponents, axis=1)))
        for index in itertools.permutations(range(u.shape[1]), len(exponents))
    )


def test_violations_against_brute_force():
    rng = np.random.default_rng(0)
    u, weights = rng.gamma(2.0, size=(9, 4)), rng.random(9)
    weights /= weights.sum()
    report = mesa.check_emergence_moments(jnp.asarray(u), weights=jnp.asarray(weights))
    expected = max(worst(u, weights, e) for e in EXPONENTS)
    np.testing.assert_allclose(report.power_one.violation, expected, rtol=1e-12)
    np.testing.assert_allclose(
        report.odd_cubes.violation, worst(u, weights, (3, 3)), rtol=1e-12
    )
    assert not report.holds


def test_standard_error_of_a_sample():
    u = np.random.default_rng(1).normal(size=(500, 2))
    report = mesa.check_emergence_moments(jnp.asarray(u))
    scaled = u / np.sqrt(np.mean(u**2))
    product = (scaled[:, 0] * scaled[:, 1]) ** 3
    error = product.std() / np.sqrt(500)
    np.testing.assert_allclose(report.odd_cubes.violation, abs(product.mean()))
    np.testing.assert_allclose(report.odd_cubes.standard_error, error, rtol=1e-12)
    np.testing.assert_allclose(
        report.odd_cubes.z_score, abs(product.mean()) / error, rtol=1e-12
    )


def test_skewed_law_passes_the_published_condition_but_is_flagged():
    report = mesa.check_emergence_moments(
        *map(jnp.asarray, SKEWED[:1]), weights=jnp.asarray(SKEWED[1])
    )
    assert report.power_one.z_score == 0
    assert report.equal_moments.z_score == 0
    # E u^3 = 2 and E u^2 = 2.
    np.testing.assert_allclose(report.odd_cubes.violation, 2 * 2 / 2**3, rtol=1e-12)
    assert not report.holds


def test_skewed_law_leaves_the_diagonal():
    # Spec 4.1: T = 5, d = 2, a = .6, b = .35 give off-diagonal gradients
    # a^2 b S1 (E u^3)^2 = .924 and a b^2 S1 (E u^3)^2 = .539.
    x, weights = mesa.quadrature_batch(length=5, dim=2, law=SKEWED)
    params = mesa.init_diagonal(2, a=0.6, b=0.35, dtype=jnp.float64)
    grads = jax.grad(lambda p: jnp.sum(weights * mesa.ar_loss(p, x)))(params)
    np.testing.assert_allclose(grads.pv[0, 1], 0.924, rtol=1e-12)
    np.testing.assert_allclose(grads.kq[2, 1], 0.539, rtol=1e-12)
    np.testing.assert_allclose(grads.pv[:, 2:], 0.0, atol=1e-12)


@pytest.mark.parametrize("law", ["gaussian", "uniform", "sparse", "rademacher"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_symmetric_laws_hold(law, dtype):
    x = mesa.sample_ar_sequences(
        jax.random.key(1), batch_shape=(2000,), length=1, dim=3, initial=law
    )
    check = jax.jit(mesa.check_emergence_moments)
    assert check(x[:, 0].real.astype(dtype)).holds


def test_samples_of_bad_laws_fail():
    index = jax.random.categorical(
        jax.random.key(2), jnp.log(jnp.asarray(SKEWED[1])), shape=(4000,)
    )
    report = mesa.check_emergence_moments(jnp.asarray(SKEWED[0])[index])
    assert report.odd_cubes.z_score > 6 > report.power_one.z_score
    ones = mesa.check_emergence_moments(jnp.ones((10, 4), jnp.float32))
    assert jnp.isinf(ones.power_one.z_score)
    assert ones.equal_moments.z_score == 0
    normal = jax.random.normal(jax.random.key(3), (4000, 3))
    unequal = mesa.check_emergence_moments(normal * jnp.array([[1.0, 1.0, 2.0]]))
    assert unequal.equal_moments.z_score > 6 > unequal.power_one.z_score
    assert not unequal.holds


def test_one_coordinate_has_nothing_to_violate():
    report = mesa.check_emergence_moments(jnp.ones((3, 1)))
    chex.assert_trees_all_equal(report.holds, jnp.asarray(True))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`samples` must have shape"):
        mesa.check_emergence_moments(jnp.ones(3))
    with pytest.raises(ValueError, match=r"`weights` must have shape \(3,\)"):
        mesa.check_emergence_moments(jnp.ones((3, 2)), weights=jnp.ones(2))
