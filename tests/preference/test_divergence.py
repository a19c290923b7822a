"""Scores under other divergences, and their limits in the order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference
from jaxkit.preference import PairLogps
from tests.preference._formulas import sigmoid

RATIOS = np.array([-3.0, -0.4, -1e-3, 0.0, 1e-9, 0.15, 2.5])


def score(a: Any, divergence: str, alpha: Any = 0.5) -> jax.Array:
    return preference.f_divergence_score(a, divergence=divergence, alpha=alpha)


def test_scores_are_the_derivatives_of_the_divergences(x64: None):
    a = RATIOS
    np.testing.assert_array_equal(score(a, "reverse_kl"), a)
    np.testing.assert_allclose(score(a, "forward_kl"), -np.expm1(-a), rtol=1e-14)
    js = np.log(2.0) + np.log(sigmoid(a))
    np.testing.assert_allclose(score(a, "js"), js, rtol=1e-13, atol=1e-15)
    for alpha in (-0.5, 0.5, 0.98, 1.7):
        expected = np.expm1((alpha - 1) * a) / (alpha - 1)
        np.testing.assert_allclose(score(a, "alpha", alpha), expected, rtol=1e-14)


def test_order_zero_is_the_forward_divergence(x64: None):
    np.testing.assert_allclose(
        score(RATIOS, "alpha", 0.0), score(RATIOS, "forward_kl"), rtol=1e-14
    )


@pytest.fixture(scope="module")
def towers() -> Any:
    """(e^{ka} - 1) / k with two derivatives in k and two in a, for k = alpha - 1."""

    def value(a: jax.Array, alpha: jax.Array) -> jax.Array:
        return score(a, "alpha", alpha)

    by_a, by_alpha = jax.grad(value, 0), jax.grad(value, 1)
    derivatives = (value, by_a, by_alpha, jax.grad(by_alpha, 0), jax.grad(by_alpha, 1))
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(lambda a, c: tuple(f(a, c) for f in derivatives)))
        return lambda a, c: run(*jnp.broadcast_arrays(jnp.asarray(a), jnp.asarray(c)))


@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-6, -1e-3, 0.03])
def test_limit_in_the_order_is_smooth(distance: float, towers: Any, x64: None):
    # Power series in k a: exact enough wherever |k a| <= 0.1.
    k, a = distance, RATIOS
    e = k * a
    terms = range(14)
    factorial = np.cumprod([1.0, *range(1, 16)])
    value = a * sum(e**n / factorial[n + 1] for n in terms)
    by_a = np.exp(e)
    by_k = a**2 * sum((n + 1) * e**n / factorial[n + 2] for n in terms)
    by_k_a = a * np.exp(e)
    by_k_k = a**3 * sum((n + 1) * (n + 2) * e**n / factorial[n + 3] for n in terms[:-1])
    got = towers(a, 1.0 + distance)
    # 1 + k is rounded, which moves k by up to 1e-16.
    for have, want in zip(got, (value, by_a, by_k, by_k_a, by_k_k), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-12, atol=1e-14)


def test_the_two_forms_meet(towers: Any, x64: None):
    # |k a| = 0.03 is where the series gives way to the quotient.
    left, right = (towers(np.array([1.0 + e]), 1.03) for e in (-1e-12, 1e-12))
    for below, above in zip(left, right, strict=True):
        np.testing.assert_allclose(below, above, rtol=1e-11)


def power_loss(alpha: Any) -> jax.Array:
    return preference.alphapo_loss(-10.0, -14.0, 5.0, 8.0, alpha=alpha)


def test_power_of_zero_is_the_logarithm(x64: None):
    plain = preference.simpo_loss(-10.0, -14.0, 5.0, 8.0)
    np.testing.assert_array_equal(power_loss(0.0), plain)
    # dR/d alpha = -A^2 / 2 at alpha = 0, so dm = -beta (A_w^2 - A_l^2) / 2.
    margin = 2.0 * (-2.0 + 1.75) - 1.0
    expected = -sigmoid(-margin) * -(2.0**2 - 1.75**2)
    np.testing.assert_allclose(jax.grad(power_loss)(0.0), expected, rtol=1e-13)
    for near in (1e-9, -1e-9):
        np.testing.assert_allclose(power_loss(near), plain, rtol=1e-8)
        np.testing.assert_allclose(jax.grad(power_loss)(near), expected, rtol=1e-8)


@pytest.mark.parametrize(
    "loss",
    [preference.nca_loss, preference.bco_loss, preference.sppo_loss],
)
def test_other_losses_take_no_divergence(loss: Any):
    with pytest.raises(TypeError, match="divergence"):
        loss(*PairLogps(-1.0, -2.0, -1.0, -2.0), divergence="js")
