"""Randomness in the inner loss biases the outer gradient: two problems with exact answers."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation

GAINS = (0.5, 1.5)


def inner_by_gain(x: jax.Array, gains: jax.Array) -> jax.Array:
    """Minimizes the mean of ``(theta - a x)^2 / 2`` over the drawn gains ``a``."""
    # One Newton step of a quadratic, so that the solution is differentiated for real.
    loss = lambda theta: jnp.mean(jnp.square(theta - gains * x)) / 2
    start = jnp.zeros_like(x)
    return start - jax.grad(loss)(start) / jax.grad(jax.grad(loss))(start)


def inner_by_mask(x: jax.Array, masks: jax.Array) -> jax.Array:
    """Minimizes the mean of ``(w m x - 1)^2 / 2`` over the drawn masks plus ``w^2 / 2``."""
    inputs = (masks * x)[:, None]
    return distillation.krr_fit(inputs, jnp.ones_like(inputs), len(masks))[0, 0]


def outer_gradient(inner, x: float, draws: tuple[float, ...], target: float) -> float:
    draws = jnp.asarray(draws)
    loss = lambda x: jnp.square(inner(x, draws) - target) / 2
    return float(jax.grad(loss)(jnp.asarray(x)))


def test_a_random_gain_adds_its_variance(x64: None):
    truth = outer_gradient(inner_by_gain, 2.0, GAINS, 1.0)
    np.testing.assert_allclose(truth, 1.0, rtol=1e-14)
    one_draw = [outer_gradient(inner_by_gain, 2.0, (a,), 1.0) for a in GAINS]
    np.testing.assert_allclose(np.mean(one_draw), 3 / 2, rtol=1e-14)
    # At every point 5 x / 4 - t in place of x - t.
    for x in (-1.0, 0.5):
        mean = np.mean([outer_gradient(inner_by_gain, x, (a,), 1.0) for a in GAINS])
        np.testing.assert_allclose(mean, 5 * x / 4 - 1, rtol=1e-14)


@pytest.mark.parametrize(("draws", "want"), [(2, 5 / 4), (4, 9 / 8)])
def test_averaging_inside_the_inner_loss_divides_the_bias(
    x64: None, draws: int, want: float
):
    each = [
        outer_gradient(inner_by_gain, 2.0, gains, 1.0)
        for gains in itertools.product(GAINS, repeat=draws)
    ]
    np.testing.assert_allclose(np.mean(each), want, rtol=1e-14)


@pytest.mark.parametrize(
    ("x", "estimate", "truth"),
    [
        (1.0, Fraction(0), Fraction(-2, 27)),
        (0.5, Fraction(-18, 125), Fraction(-196, 729)),
        (2.0, Fraction(9, 250), Fraction(1, 27)),
    ],
)
def test_a_random_mask_moves_the_stationary_point(
    x64: None, x: float, estimate: Fraction, truth: Fraction
):
    masks = (0.0, 1.0)
    one_draw = [outer_gradient(inner_by_mask, x, (m,), 1.0) for m in masks]
    np.testing.assert_allclose(np.mean(one_draw), float(estimate), atol=1e-15)
    exact = outer_gradient(inner_by_mask, x, masks, 1.0)
    np.testing.assert_allclose(exact, float(truth), rtol=1e-13)
