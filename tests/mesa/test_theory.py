import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")


def build(law, dim, scale):
    """The moments in float64: a parameter list would be evaluated in float32."""
    return getattr(mesa, f"{law}_moments")(dim, scale=scale)


def test_flow_constants_against_reference_values():
    c1, c2 = mesa.flow_constants(mesa.gaussian_moments(5), length=100)
    np.testing.assert_allclose([c1, c2], [1532.007318, 294.0], atol=5e-7)
    c1, _ = mesa.flow_constants(mesa.gaussian_moments(5, scale=2.0), length=100)
    np.testing.assert_allclose(c1, 64 * 1532.007318, rtol=1e-9)
    c1, c2 = mesa.flow_constants(mesa.gaussian_moments(2), length=4)
    np.testing.assert_allclose([c1, c2], [34.5, 6.0], rtol=1e-14)


@pytest.mark.parametrize(
    ("law", "length", "expected", "digits"),
    [
        (("gaussian", 5, 0.5), 100, 0.767620, 6),
        (("gaussian", 5, 1.0), 100, 0.191905089, 9),
        (("gaussian", 5, 2.0), 100, 0.047976272, 9),
        (("gaussian", 5, 1.0), 5, 0.134328358, 9),
        (("gaussian", 2, 1.0), 4, 0.173913043, 9),
        (("rademacher", 5, 1.0), 100, 0.825825721, 9),
        (("ones", 5, 1.0), 100, 0.825825721, 9),
        (("ones", 2, 1.0), 4, 0.571428571, 9),
        (("sparse", 2, 0.8), 4, 1.5625, 9),
        (("sparse", 5, 0.5), 7, 4.0, 9),
        (("gaussian", 5, 0.5), None, 0.8, 9),
        (("gaussian", 5, 2.0), None, 0.05, 9),
        (("sparse", 5, 0.5), None, 4.0, 9),
    ],
)
def test_limits_against_reference_values(law, length, expected, digits):
    limit = mesa.limit_product(build(*law), length=length)
    np.testing.assert_allclose(limit, expected, rtol=0, atol=0.5000001 * 10.0**-digits)


def test_limit_is_the_ratio_of_the_flow_constants_and_vectorizes():
    scales = jnp.array([0.5, 1.0, 2.0])
    moments = mesa.gaussian_moments(5, scale=scales)
    c1, c2 = mesa.flow_constants(moments, length=100)
    limits = mesa.limit_product(moments, length=100)
    np.testing.assert_allclose(limits, c2 / c1, rtol=1e-14)
    by_map = jax.vmap(
        lambda s: mesa.limit_product(mesa.gaussian_moments(5, scale=s), length=100)
    )(scales)
    np.testing.assert_allclose(limits, by_map, rtol=1e-14)
    # Scalars beside arrays, as of a law that is only known in numbers.
    mixed = mesa.Moments(1.0, 3.0, jnp.array([15.0, 20.0]), 12.0, 3.0, 1.0)
    assert mesa.limit_product(mixed, length=100).shape == (2,)


def test_limit_is_finite_and_differentiable_at_great_length():
    slope = jax.grad(
        lambda s: mesa.limit_product(mesa.gaussian_moments(5, scale=s), length=10**6)
    )(1.0)
    np.testing.assert_allclose(slope, -2 * 0.2, rtol=1e-4)


@pytest.mark.parametrize(
    ("law", "length", "a", "loss", "slope_a", "slope_b"),
    [
        (("gaussian", 2, 1.0), 4, 0.6, 1.00145, 0.43575, 0.747),
        (("ones", 2, 1.0), 4, 0.6, 1.31435, -0.44275, -0.759),
        (("sparse", 2, 0.8), 4, 0.6, 0.4795285504, -0.124092416, -0.212729856),
        (("gaussian", 2, 1.3), 5, 0.6, 5.02348698345, 8.91919330575, 15.290045667),
        (("sparse", 2, 0.8), 5, 0.6, 0.7192928256, -0.186138624, -0.319094784),
        (("ones", 2, 1.0), 5, 0.6, 1.95315, -0.69475, -1.191),
    ],
)  # fmt: skip
def test_diagonal_loss_against_reference_values(law, length, a, loss, slope_a, slope_b):
    moments = build(*law)
    options = {"length": length, "dim": 2}
    value = mesa.diagonal_loss(a, 0.35, moments, **options)
    np.testing.assert_allclose(value, loss, rtol=1e-11)
    grads = jax.grad(mesa.diagonal_loss, argnums=(0, 1))(a, 0.35, moments, **options)
    # Factor d: a scalar moves all d diagonal entries.
    np.testing.assert_allclose(np.array(grads) / 2, [slope_a, slope_b], rtol=1e-9)
    c1, c2 = mesa.flow_constants(moments, length=length)
    rhs = mesa.reduced_flow_rhs(a, 0.35, c1, c2)
    np.testing.assert_allclose(rhs, -np.array([slope_a, slope_b]), rtol=1e-9)


@pytest.mark.parametrize(
    ("law", "expected", "zero"),
    [
        (("gaussian", 5, 1.0), 103.949759934, 245.0),
        (("gaussian", 5, 0.5), 25.987440, 61.25),
        (("sparse", 5, 1.0), 0.0, 49.0),
        (("ones", 5, 1.0), 42.672698454, 245.0),
    ],
)
def test_minimal_losses_against_reference_values(law, expected, zero):
    moments = build(*law)
    limit = mesa.limit_product(moments, length=100)
    loss = lambda p: mesa.diagonal_loss(p, 1.0, moments, length=100, dim=5)
    tolerance = 6e-7 if expected == 25.987440 else 6e-10
    np.testing.assert_allclose(loss(limit), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(loss(0.0), zero, rtol=1e-14)
    assert loss(1.01 * limit) > loss(limit) < loss(0.99 * limit)


def test_surrogate_identities():
    moments = mesa.gaussian_moments(5)
    c1, c2 = mesa.flow_constants(moments, length=100)
    surrogate = lambda ab: (c2 - c1 * ab[0] * ab[1]) ** 2 / (2 * c1)
    ab = jnp.array([0.3, 0.45])
    rest = 0.5 * 5 * (98 * 1.0 - c2**2 / c1)
    total = mesa.diagonal_loss(ab[0], ab[1], moments, length=100, dim=5)
    np.testing.assert_allclose(total, 5 * surrogate(ab) + rest, rtol=1e-13)
    slope = jax.grad(surrogate)(ab)
    bound = 2 * c1 * jnp.sum(ab**2) * surrogate(ab)
    np.testing.assert_allclose(jnp.sum(slope**2), bound, rtol=1e-13)
    product = c1 * ab[0] * ab[1]
    determinant = (c2 - product) * (3 * product - c2)
    hessian = jax.hessian(surrogate)(ab)
    np.testing.assert_allclose(jnp.linalg.det(hessian), determinant, rtol=1e-11)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (mesa.gaussian_moments, 0.4),
        (mesa.uniform_moments, 0.16),
        (mesa.sparse_moments, 0.0),
        (mesa.rademacher_moments, 0.0),
    ],
)
def test_asymptotic_risk(build, expected):
    moments = build(5, scale=jnp.array([0.5, 1.7]))
    risk = mesa.asymptotic_risk(moments)
    np.testing.assert_allclose(risk, expected, atol=1e-14)
    limit = mesa.limit_product(moments, length=None)
    far = mesa.context_risk(moments, limit, 1e12)
    np.testing.assert_allclose(far, expected, atol=1e-10)


def test_context_risk_against_reference_values_and_by_quadrature():
    gaussian = mesa.gaussian_moments(5)
    risk = mesa.context_risk(gaussian, 0.191905, 20)
    np.testing.assert_allclose(risk, 0.4242, atol=5e-5)
    rademacher = mesa.context_risk(build("rademacher", 5, 1.0), 1.0, jnp.array([50, 9]))
    np.testing.assert_allclose(rademacher, [4 / 49, 4 / 8], rtol=1e-12)
    np.testing.assert_allclose(rademacher[0], 0.0816, atol=5e-5)
    x, weights = mesa.quadrature_batch(length=5, dim=2, law="gaussian")
    params = mesa.init_diagonal(2, a=0.6, b=0.35, dtype=jnp.float64)
    error = jnp.sum(jnp.abs(mesa.lsa_predict(params, x) - x[:, 2:]) ** 2, axis=-1)
    by_quadrature = jnp.sum(weights[:, None] * error, axis=0) / 2
    theory = mesa.context_risk(build("gaussian", 2, 1.0), 0.21, jnp.array([2, 3, 4]))
    np.testing.assert_allclose(by_quadrature, theory, rtol=1e-12)


def test_context_risk_by_monte_carlo():
    x = mesa.sample_ar_sequences(
        jax.random.key(0), batch_shape=(4000,), length=21, dim=5, dtype=jnp.complex128
    )
    params = mesa.init_diagonal(5, a=0.191905, b=1.0, dtype=jnp.float64)
    error = jnp.sum(jnp.abs(mesa.lsa_predict(params, x)[:, 18] - x[:, 20]) ** 2, -1)
    np.testing.assert_allclose(jnp.mean(error) / 5, 0.4242, atol=0.02)


def test_expected_ratio():
    # Proposition 4.1: a b sigma^2 at every context, near 1/(5 + (d-1) S1/(T-2)).
    moments = mesa.gaussian_moments(5, scale=0.5)
    limit = mesa.limit_product(moments, length=100)
    harmonic = np.sum(1 / np.arange(1, 99))
    expected = 1 / (5 + 4 * harmonic / 98)
    np.testing.assert_allclose(
        mesa.expected_ratio(moments, limit), expected, rtol=1e-12
    )
    x, weights = mesa.quadrature_batch(length=5, dim=2, law="rademacher", scale=1.3)
    params = mesa.init_diagonal(2, a=0.6, b=0.35, dtype=jnp.float64)
    ratio = mesa.lsa_predict(params, x) / x[:, 2:]
    mean = jnp.sum(weights[:, None, None].astype(complex) * ratio, axis=0)
    theory = mesa.expected_ratio(build("rademacher", 2, 1.3), 0.21)
    np.testing.assert_allclose(mean, jnp.full((3, 2), theory), atol=1e-12)


def test_degenerate_laws_are_refused_by_value():
    point = mesa.gaussian_moments(5, scale=0.0)
    with pytest.raises(ValueError, match=r"`moments.k2` must be positive, got 0\."):
        mesa.limit_product(point, length=100)
    with pytest.raises(ValueError, match=r"`moments.m2` must be positive, got 0\."):
        mesa.asymptotic_risk(point)
    many = mesa.gaussian_moments(5)._replace(k2=jnp.array([1.0, -2.0]))
    negative = mesa.gaussian_moments(5)._replace(k3=-1e6)
    with pytest.raises(ValueError, match=r"`moments: c1 .* must be positive, got -"):
        mesa.limit_product(negative, length=100)
    with pytest.raises(ValueError, match=r"`moments.k2` must be positive, got -2"):
        mesa.limit_product(many, length=100)


def test_degenerate_laws_under_jit_are_found_by_checkify():
    limit = jax.jit(
        lambda s: mesa.limit_product(mesa.gaussian_moments(5, scale=s), length=100)
    )
    assert jnp.isnan(limit(0.0))
    checked = checkify.checkify(limit)
    error, _ = checked(0.0)
    with pytest.raises(
        checkify.JaxRuntimeError, match=r"`moments.k2` must be positive"
    ):
        error.throw()
    error, value = checked(1.0)
    error.throw()
    np.testing.assert_allclose(value, 0.191905089, atol=1e-9)


def test_bad_arguments():
    moments = mesa.gaussian_moments(5)
    with pytest.raises(ValueError, match="`length` must be at least 3, got 2"):
        mesa.flow_constants(moments, length=2)
    with pytest.raises(ValueError, match="`length` must be at least 3, got 2"):
        mesa.limit_product(moments, length=2)
    with pytest.raises(ValueError, match="`dim` must be at least 1, got 0"):
        mesa.diagonal_loss(0.1, 0.1, moments, length=5, dim=0)
    with pytest.raises(TypeError, match=r"`moments.k1` must have a real"):
        mesa.flow_constants(moments._replace(k1=jnp.array(1j)), length=5)
    with pytest.raises(ValueError, match=r"broadcast together, got .*`a` \(2,\)"):
        mesa.diagonal_loss(jnp.ones(2), jnp.ones(3), moments, length=5, dim=2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_low_precision(dtype):
    moments = mesa.Moments(*(jnp.asarray(m, dtype) for m in (1, 3, 15, 12, 3, 1)))
    limit = mesa.limit_product(moments, length=100)
    assert limit.dtype == jnp.float32
    np.testing.assert_allclose(limit, 0.191905089, rtol=1e-6)
    assert mesa.context_risk(moments, limit, 20).dtype == jnp.float32
