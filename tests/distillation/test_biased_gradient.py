"""Randomness in the inner loss biases the outer gradient: two problems with exact answers."""

import itertools
from collections.abc import Callable, Sequence
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


def outer_gradients(
    inner: Callable[..., jax.Array], x: float, draws: Sequence[Sequence[float]]
) -> np.ndarray:
    """The slope of the outer loss for each row of draws, through the inner solution."""
    loss = lambda x, draw: jnp.square(inner(x, draw) - 1.0) / 2
    slopes = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
    return np.asarray(slopes(jnp.asarray(x), jnp.asarray(draws)))


def test_a_random_gain_adds_its_variance(x64: None):
    each = [[a] for a in GAINS]
    # At every point 5 x / 4 - t in place of x - t.
    for x, want in ((2.0, 3 / 2), (-1.0, -9 / 4), (0.5, -3 / 8)):
        mean = outer_gradients(inner_by_gain, x, each).mean()
        np.testing.assert_allclose(mean, want, rtol=1e-14)
    truth = outer_gradients(inner_by_gain, 2.0, [GAINS])
    np.testing.assert_allclose(truth, [1.0], rtol=1e-14)


@pytest.mark.parametrize(("draws", "want"), [(2, 5 / 4), (4, 9 / 8)])
def test_averaging_inside_the_inner_loss_divides_the_bias(
    x64: None, draws: int, want: float
):
    all_draws = list(itertools.product(GAINS, repeat=draws))
    mean = outer_gradients(inner_by_gain, 2.0, all_draws).mean()
    np.testing.assert_allclose(mean, want, rtol=1e-14)


def test_a_random_mask_moves_the_stationary_point(x64: None):
    points = {
        1.0: (Fraction(0), Fraction(-2, 27)),
        0.5: (Fraction(-18, 125), Fraction(-196, 729)),
        2.0: (Fraction(9, 250), Fraction(1, 27)),
    }
    for x, (estimate, truth) in points.items():
        mean = outer_gradients(inner_by_mask, x, [[0.0], [1.0]]).mean()
        np.testing.assert_allclose(mean, float(estimate), rtol=1e-13, atol=1e-15)
        exact = outer_gradients(inner_by_mask, x, [[0.0, 1.0]])
        np.testing.assert_allclose(exact, [float(truth)], rtol=1e-13)
