"""Losses of single answers and of samples, token weights and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import ops, preference
from tests.preference._formulas import sigmoid

LOGPS = np.array([-10.0, -14.0, -3.0, -7.5])
REFERENCE = np.array([-11.0, -13.0, -3.0, -9.0])
GOOD = np.array([True, False, False, True])


def test_unpaired_values_and_slopes(x64: None):
    beta, z, gain, penalty = 0.3, 0.5, 1.5, 0.7

    def total(logps: jax.Array, ref_logps: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = preference.kto_loss(
            logps,
            ref_logps,
            GOOD,
            kl_estimate=z,
            beta=beta,
            desirable_weight=gain,
            undesirable_weight=penalty,
        )
        return jnp.sum(loss), loss

    run = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (slopes, ref_slopes), loss = run(LOGPS, REFERENCE)
    u = beta * (LOGPS - REFERENCE - z)
    expected = np.where(GOOD, gain * (1 - sigmoid(u)), penalty * (1 - sigmoid(-u)))
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    bump = beta * sigmoid(u) * sigmoid(-u)
    np.testing.assert_allclose(
        slopes, np.where(GOOD, -gain * bump, penalty * bump), rtol=1e-12
    )
    np.testing.assert_array_equal(ref_slopes, 0.0)


def test_no_gradient_through_the_reference_point():
    def through(logps: jax.Array) -> jax.Array:
        z = preference.kto_kl_estimate(logps, REFERENCE.astype(np.float32))
        return jnp.sum(
            preference.kto_loss(
                jnp.float32(-1.0), jnp.float32(-2.0), jnp.array(True), kl_estimate=z
            )
        )

    np.testing.assert_array_equal(jax.grad(through)(jnp.asarray(LOGPS)), 0.0)
    by_hand = jax.grad(
        lambda z: preference.kto_loss(-1.0, -2.0, jnp.array(True), kl_estimate=z)
    )(0.5)
    assert float(by_hand) == 0.0


def test_reference_point_is_the_positive_part_of_the_mean(x64: None):
    np.testing.assert_allclose(
        preference.kto_kl_estimate(LOGPS, REFERENCE), 1.5 / 4, rtol=1e-14
    )
    assert float(preference.kto_kl_estimate(REFERENCE, LOGPS)) == 0.0
    poisoned = np.where(GOOD, LOGPS, np.nan)
    got = preference.kto_kl_estimate(poisoned, REFERENCE, where=GOOD)
    np.testing.assert_allclose(got, 1.25, rtol=1e-14)
    assert (
        float(preference.kto_kl_estimate(LOGPS, REFERENCE, where=np.zeros(4, bool)))
        == 0.0
    )


def test_samples_of_the_policy(x64: None):
    rng = np.random.default_rng(0)
    logps, reference = -rng.uniform(0.1, 3.0, (2, 3, 5))
    probs, beta = rng.uniform(0.0, 1.0, 3), 0.3
    where = np.arange(5) < np.array([5, 3, 1])[:, None]

    def total(
        logps: jax.Array, reference: jax.Array, probs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        loss = preference.nash_md_loss(
            logps, reference, probs, beta=beta, where=jnp.asarray(where)
        )
        return jnp.sum(loss), loss

    run = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    poisoned = np.where(where, logps, np.nan), np.where(where, reference, np.inf)
    (by_logps, by_reference, by_probs), loss = run(*poisoned, probs)
    ratio = np.where(where, logps - reference, 0.0)
    answer = np.sum(logps, axis=-1, where=where)
    penalty = np.sum(ratio * logps, axis=-1)
    np.testing.assert_allclose(
        loss, beta * penalty - (probs - 0.5) * answer, rtol=1e-12
    )
    # The log-ratio is a weight: it is not differentiated.
    expected = np.where(where, beta * ratio - (probs[:, None] - 0.5), 0.0)
    np.testing.assert_allclose(by_logps, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(by_reference, 0.0)
    np.testing.assert_array_equal(by_probs, 0.0)


def test_length_decomposition_counts_answer_tokens(x64: None):
    logps = np.log(np.linspace(0.1, 0.9, 12)).reshape(2, 6)
    # The answer begins after the prompt, and may have holes.
    where = np.array([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0]], bool)
    got = preference.length_decomposed_log_probs(
        logps, np.array([2, 3]), alpha=0.25, where=where
    )
    first = logps[0, 1] + logps[0, 2] + 0.25 * (logps[0, 4] + logps[0, 5])
    np.testing.assert_allclose(got, [first, logps[1, 4]], rtol=1e-14)
    plain = preference.length_decomposed_log_probs(
        logps, np.array([0, 0]), alpha=1.0, where=where
    )
    np.testing.assert_allclose(plain, np.sum(logps, -1, where=where), rtol=1e-14)
    assert preference.length_decomposed_log_probs(
        jnp.zeros((2, 0)), np.array([1, 1]), alpha=0.5
    ).shape == (2,)


def test_weight_of_an_answer_is_relative_to_the_policys_own(x64: None):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(7), (2, 4))
    labels = rng.integers(0, 7, (2, 4))
    where = np.array([[True, True, False, True], [False, False, False, False]])
    token = np.log(np.take_along_axis(probs, labels[..., None], -1)[..., 0])
    expected_log = np.log(np.sum(probs**2, -1))
    got = preference.wpo_weights(
        np.where(where, token, np.nan),
        np.where(where, expected_log, np.nan),
        where=where,
    )
    mean = np.mean((token - expected_log)[0], where=where[0])
    np.testing.assert_allclose(got, [np.exp(mean), 1.0], rtol=1e-13)
    gradient = jax.grad(lambda t: jnp.sum(preference.wpo_weights(t, expected_log)))
    np.testing.assert_array_equal(gradient(jnp.asarray(token)), 0.0)


def test_metrics(x64: None):
    pair = preference.PairLogps(
        np.array([-10.0, -2.0, np.nan, -1.0]),
        np.array([-14.0, -3.0, 0.0, -5.0]),
        np.array([-11.0, -2.0, 0.0, -2.0]),
        np.array([-13.0, -3.0, np.nan, -9.0]),
    )
    # Log-ratios (1, -1), a tie (0, 0), a masked pair, and (1, 4).
    where = np.array([True, True, False, True])
    metrics = preference.preference_metrics(pair, beta=0.5, where=where)
    expected = {
        "reward_chosen": 0.5 * 2 / 3,
        "reward_rejected": 0.5 * 3 / 3,
        "margin": 0.5 * -1 / 3,
        "accuracy": 1 / 3,
        "chosen_logps": -13 / 3,
        "rejected_logps": -22 / 3,
        "kl_to_ref": 2 / 3,
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-13, err_msg=name)


def test_implicit_reward_gives_no_gradient_to_the_reference():
    gradient = jax.grad(preference.implicit_reward, argnums=(0, 1))(
        -1.0, -2.0, beta=0.5
    )
    assert [float(g) for g in gradient] == [0.5, 0.0]


def test_weights_of_its_own_samples_average_to_one():
    # E_{y~p} p(y) = sum_v p_v^2, so the mean of exp(log p - log sum p^2) is 1.
    probs = jnp.array([0.7, 0.2, 0.1])
    weights = preference.wpo_weights(
        jnp.log(probs)[:, None], jnp.full((3, 1), jnp.log(jnp.sum(probs**2)))
    )
    np.testing.assert_allclose(ops.masked_sum(probs * weights), 1.0, rtol=1e-6)


@pytest.mark.parametrize("paired", [True, False])
def test_sorted_loss_does_not_see_who_is_paired_with_whom(paired: bool):
    rng = np.random.default_rng(0)
    chosen, rejected, ref_chosen, ref_rejected = -rng.uniform(1.0, 9.0, (4, 6))
    loss = preference.aot_loss(
        chosen, rejected, ref_chosen, ref_rejected, paired=paired
    )
    order = rng.permutation(6)
    moved = preference.aot_loss(
        *(
            (chosen[order], rejected[order], ref_chosen, ref_rejected)
            if paired
            else (chosen, rejected[order], ref_chosen, ref_rejected[order])
        ),
        paired=paired,
    )
    np.testing.assert_allclose(loss, moved, rtol=1e-5)
