"""Flipped labels are wrong at the rate asked for; the mixture finds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere


def test_flips_are_wrong_as_often_as_asked_and_even():
    labels = jnp.tile(jnp.arange(-1, 4), 4000)
    noisy = jax.jit(
        lambda key: hypersphere.flip_labels(key, labels, num_classes=4, rate=0.3)
    )(jax.random.key(0))
    np.testing.assert_array_equal(noisy.flipped, noisy.labels != labels)
    assert np.all(noisy.labels[labels < 0] == -1)
    assert noisy.labels.dtype == labels.dtype
    known = np.asarray(labels) >= 0
    # 16000 draws: four standard deviations.
    assert abs(np.mean(np.asarray(noisy.flipped)[known]) - 0.3) < 0.015
    for true in range(4):
        wrong = np.asarray(noisy.labels)[(labels == true) & noisy.flipped]
        shares = np.bincount(wrong, minlength=4) / wrong.size
        assert shares[true] == 0.0
        np.testing.assert_allclose(np.delete(shares, true), 1 / 3, atol=0.055)


@pytest.mark.slow
def test_rates_zero_and_one_flip_nothing_and_everything():
    labels = jnp.zeros(50, jnp.int8)
    for rate, want in ((0.0, False), (1.0, True)):
        noisy = hypersphere.flip_labels(
            jax.random.key(1), labels, num_classes=100, rate=rate
        )
        assert np.all(np.asarray(noisy.flipped) == want)


@pytest.mark.slow
def test_the_mixture_converges_to_the_posterior_of_its_parameters(x64):
    rng = np.random.default_rng(0)
    flipped = rng.random(20_000) < 0.3
    angles = np.where(flipped, 1.5, 0.7) + 0.2 * rng.standard_normal(20_000)
    got = np.asarray(hypersphere.clean_label_probability(jnp.asarray(angles)))
    log_odds = ((angles - 1.5) ** 2 - (angles - 0.7) ** 2) / (2 * 0.2**2)
    want = 1 / (1 + np.exp(-log_odds) * 3 / 7)
    np.testing.assert_allclose(got, want, atol=0.03)
    # It ranks as the angle does.
    assert np.all(np.diff(got[np.argsort(angles)]) <= 1e-12)


def test_masked_angles_are_not_in_the_mixture():
    known = jnp.array([0.3, 0.5, 0.7, 0.8, 1.0, 1.1])
    angles = jnp.concatenate([known, jnp.full(6, jnp.nan)])
    got = hypersphere.clean_label_probability(angles, where=jnp.arange(12) < 6)
    want = hypersphere.clean_label_probability(known)
    np.testing.assert_allclose(got[:6], want, rtol=1e-4)
    np.testing.assert_array_equal(got[6:], 0.0)
