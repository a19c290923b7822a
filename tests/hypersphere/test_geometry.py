"""Cosines and chord angles where arc cosines lose their digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs


@jax.jit
def margin_slope(angle: jax.Array) -> jax.Array:
    """Differentiates cos(theta + 1/2) along the circle by the chord angle."""

    def value(x: jax.Array) -> jax.Array:
        chord = hs.target_angle(x[None], jnp.eye(2), LABEL)
        return jnp.cos(chord.theta + 0.5)[0]

    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    along = jnp.stack([-jnp.sin(angle), jnp.cos(angle)])
    return jnp.vdot(jax.grad(value)(x), along)


LABEL = np.array([0])


@pytest.mark.parametrize(
    ("angle", "tolerance"), [(1e-4, 2e-3), (1e-3, 2e-4), (0.1, 1e-5), (3.0, 1e-5)]
)
def test_the_slope_of_a_margin_survives_small_angles(angle: float, tolerance: float):
    slope = margin_slope(jnp.float32(angle))
    np.testing.assert_allclose(slope, -np.sin(angle + 0.5), rtol=tolerance)


def test_at_the_poles_the_slope_is_zero():
    np.testing.assert_array_equal(margin_slope(jnp.float32(0.0)), 0.0)
    opposite = hs.target_angle(-jnp.eye(2)[:1], jnp.eye(2), LABEL)
    np.testing.assert_allclose(opposite.theta, np.pi, rtol=1e-7)


def test_a_zero_vector_is_orthogonal_to_everything():
    angle = hs.target_angle(jnp.zeros((1, 2)), jnp.eye(2), LABEL)
    assert isinstance(angle, hs.TargetAngle)
    assert angle.cos == 0
    assert angle.sin == 1
    np.testing.assert_allclose(angle.theta, np.pi / 2, rtol=1e-7)
    cosines = hs.cosine_similarity_matrix(jnp.zeros((1, 2)), jnp.eye(2))
    np.testing.assert_array_equal(cosines, 0.0)


def test_half_precision_factors_keep_three_digits():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal((32, 32)), jnp.float32) for _ in range(2))
    exact = hs.cosine_similarity_matrix(x, w)
    low = hs.cosine_similarity_matrix(x, w, compute_dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    error = np.max(np.abs(low - exact))
    assert 1e-5 < error < 3e-3
    np.testing.assert_allclose(
        jnp.diagonal(hs.cosine_similarity_matrix(x, x)), 1.0, atol=1e-6
    )


@pytest.mark.slow
def test_a_loss_with_half_precision_factors_is_close():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal((32, 32)), jnp.float32) for _ in range(2))
    config, labels = hs.SFaceConfig.small_scale(), np.arange(32)

    def total(w: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
        return jnp.sum(hs.hypersphere_loss(x, w, labels, config, compute_dtype=dtype))

    exact = jax.grad(total)(w, None)
    low = jax.grad(total)(w, jnp.bfloat16)
    assert np.linalg.norm(low - exact) < 0.02 * np.linalg.norm(exact)


def test_of_several_centers_the_closest_counts():
    w = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    x = jnp.asarray([[0.6, 0.8], [0.6, 0.8]])
    cosines = hs.cosine_similarity_matrix(x, w)
    np.testing.assert_allclose(cosines[0], [0.8, -0.6], rtol=1e-6)
    angle = hs.target_angle(x, w, jnp.asarray([0, 1]))
    np.testing.assert_allclose(angle.cos, [0.8, -0.6], rtol=1e-6)
    np.testing.assert_allclose(angle.sin, [0.6, 0.8], rtol=1e-6)
