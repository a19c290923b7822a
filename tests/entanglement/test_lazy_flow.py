import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import wrightomega

from jaxkit import entanglement, ops, preference
from jaxkit.entanglement import PairGram

pytestmark = pytest.mark.usefixtures("x64")

BETA = 0.7
# Ideal, both fall, both rise, nearly equal answers.
GRAMS = PairGram(
    chosen=np.array([2.0, 1.0, 5.0, 1.0]),
    cross=np.array([1.0, 2.0, 2.0, 1.0]),
    rejected=np.array([3.0, 5.0, 1.0, 1.0 + 1e-6]),
)
STARTS = np.array([0.0, -3.0, 1.5, 0.2])
TIMES = np.array([0.0, 0.3, 1.0, 5.0])


def closed_form():
    gram = PairGram(*(entry[:, None] for entry in GRAMS))
    return entanglement.lazy_dpo_flow(gram, STARTS[:, None], TIMES[None], beta=BETA)


def test_the_example_by_hand():
    margin, changes = entanglement.lazy_dpo_flow(
        PairGram(2.0, 1.0, 3.0), 0.0, 1.0, beta=1.0
    )
    np.testing.assert_allclose(margin, 1.073728938, atol=5e-10)
    np.testing.assert_allclose(changes, (0.357909646, -0.715819292), atol=5e-10)


def test_the_flow_equals_the_integrator():
    def field(_, state):
        chosen, rejected = state
        push = BETA * jax.nn.sigmoid(-BETA * (STARTS + chosen - rejected))
        return (
            push * (GRAMS.chosen - GRAMS.cross),
            push * (GRAMS.cross - GRAMS.rejected),
        )

    zeros = (jnp.zeros(4), jnp.zeros(4))
    chosen, rejected = ops.integrate(field, zeros, TIMES, substeps=64)
    margin, changes = closed_form()
    np.testing.assert_allclose(changes.chosen, chosen.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(changes.rejected, rejected.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        margin, STARTS[:, None] + (chosen - rejected).T, atol=1e-8
    )
    # The shares do not change in time.
    share = (
        np.asarray(changes.chosen)[:, 1:] / np.asarray(margin - STARTS[:, None])[:, 1:]
    )
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1], share.shape))


def test_small_steps_of_descent_approach_the_flow_at_first_order():
    # Log-probabilities linear in four parameters, with the Gram of the first pair.
    g_w = jnp.array([1.0, 1.0, 0.0, 0.0])
    g_l = jnp.array([1.0, 0.0, 1.0, 1.0])

    def loss(theta):
        return preference.dpo_loss(g_w @ theta, g_l @ theta, 0.0, 0.0, beta=BETA)

    @functools.partial(jax.jit, static_argnums=0)
    def descend(steps):
        size = TIMES[-1] / steps
        step = lambda theta, _: (theta - size * jax.grad(loss)(theta), None)
        theta, _ = jax.lax.scan(step, jnp.zeros(4), length=steps)
        return g_w @ theta, g_l @ theta

    _, changes = closed_form()
    want = (changes.chosen[0, -1], changes.rejected[0, -1])
    errors = [
        np.abs(np.subtract(descend(steps), want)).max() for steps in (100, 200, 400)
    ]
    assert errors[0] < 0.02
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0, atol=0.02)


def test_extreme_margins_and_times_equal_the_omega_function():
    # x + e^x = K has the solution K - omega(K) = log omega(K).
    starts = np.array([-1e3, -494.0, -50.0, -1.0, 0.0, 3.0, 30.0, 300.0])
    drives = np.array([1e-9, 1e-3, 1.0, 30.0, 1e3, 1e8, 1e30])
    start, drive = (x.ravel() for x in np.meshgrid(starts, drives))
    # S = 1 and beta = 1: the drive is the time.
    margin, changes = entanglement.lazy_dpo_flow(
        PairGram(1.0, 0.5, 1.0), start, drive, beta=1.0
    )
    total = start + np.exp(start) + drive
    omega = wrightomega(total)
    want = np.where(total > 1, np.log(np.maximum(omega, 1e-300)), total - omega)
    np.testing.assert_allclose(margin, want, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(changes.chosen, -np.asarray(changes.rejected))
    # A small change keeps its own digits: to first order it is sigma(-x) times drive.
    small = drive == 1e-9
    np.testing.assert_allclose(
        2 * np.asarray(changes.chosen)[small],
        1e-9 / (1 + np.exp(start[small])),
        rtol=1e-8,
    )


def test_equal_answers_do_not_move():
    margin, changes = entanglement.lazy_dpo_flow(PairGram(2.0, 2.0, 2.0), 0.5, 9.0)
    assert margin == 0.5
    assert changes == (0.0, 0.0)
