"""The exact statements behind the self-exploring loss, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference

BETA = 0.7


@pytest.fixture
def tables() -> tuple[np.ndarray, np.ndarray]:
    """Rewards and reference log-probabilities of 3 prompts and 5 answers."""
    rng = np.random.default_rng(3)
    return rng.standard_normal((3, 5)), normalized(rng.standard_normal((3, 5)))


def normalized(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def inner_value(log_pi: np.ndarray, reward: np.ndarray, ref: np.ndarray) -> np.ndarray:
    """The inner objective by its definition."""
    gain = ((np.exp(log_pi) - np.exp(ref)) * reward).sum(-1)
    return gain - BETA * divergence(log_pi, ref)


def test_the_optimal_policy_is_a_tilted_reference(x64: None, tables):
    reward, ref = tables
    got = preference.optimal_policy(reward, ref, beta=BETA)
    np.testing.assert_allclose(got, normalized(ref + reward / BETA), rtol=1e-12)


def test_the_value_is_a_forward_divergence(x64: None, tables):
    reward, ref = tables
    gap = preference.selm_value_gap(reward, ref, beta=BETA)
    best = normalized(ref + reward / BETA)
    np.testing.assert_allclose(gap, BETA * divergence(ref, best), rtol=1e-12)
    np.testing.assert_allclose(gap, inner_value(best, reward, ref), rtol=1e-12)


def test_no_other_policy_has_a_higher_value(x64: None, tables):
    reward, ref = tables
    gap = preference.selm_value_gap(reward, ref, beta=BETA)
    rng = np.random.default_rng(4)
    best = normalized(ref + reward / BETA)
    for size in (1e-3, 0.1, 1.0):
        other = normalized(best + size * rng.standard_normal((100, 3, 5)))
        assert np.all(inner_value(other, reward, ref) <= np.asarray(gap) + 1e-12)


def test_the_value_of_implicit_rewards_needs_no_partition_function(x64: None, tables):
    logits, ref = tables
    policy = normalized(logits)
    implicit = BETA * (policy - ref)
    gap = preference.selm_value_gap(implicit, ref, beta=BETA)
    np.testing.assert_allclose(gap, -(np.exp(ref) * implicit).sum(-1), rtol=1e-12)
    assert np.all(np.asarray(gap) >= 0)


def test_theorem_5_1_the_reference_has_the_least_implicit_reward(x64: None, tables):
    logits, ref = tables
    policy = normalized(logits)
    implicit = BETA * (policy - ref)
    least = preference.optimal_policy(-implicit, policy, beta=BETA)
    np.testing.assert_allclose(least, ref, rtol=1e-12)


def test_a_small_reward_has_its_variance_as_value():
    reward = jnp.array([1e-3, -1e-3]) + 100.0
    gap = preference.selm_value_gap(reward, jnp.log(jnp.full(2, 0.5)), beta=1.0)
    np.testing.assert_allclose(gap, 0.5e-6, atol=2e-7)


def brute_force(
    policy: np.ndarray,
    ref: np.ndarray,
    reward: np.ndarray,
    sampler: np.ndarray,
    alpha: float,
) -> float:
    total = 0.0
    size = policy.size
    for i in range(size):
        for j in range(size):
            mass = np.exp(sampler[i] + sampler[j])
            margin = BETA * (policy[i] - ref[i] - policy[j] + ref[j])
            wins = 1 / (1 + np.exp(reward[j] - reward[i]))
            total += mass * wins * np.log1p(np.exp(-margin))
            total += mass * (1 - wins) * np.log1p(np.exp(margin))
    return total + alpha * BETA * (np.exp(ref) * (policy - ref)).sum()


def test_population_loss_equals_the_sum_over_all_outcomes(x64: None, tables):
    reward, ref = tables
    rng = np.random.default_rng(5)
    policy, sampler = (normalized(rng.standard_normal((3, 5))) for _ in range(2))
    loss = lambda **options: preference.selm_population_loss(
        policy, ref, reward, alpha=0.3, beta=BETA, **options
    )
    for mu, got in ((ref, loss()), (sampler, loss(sampler_log_probs=sampler))):
        expected = [
            brute_force(policy[i], ref[i], reward[i], mu[i], 0.3) for i in range(3)
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_population_gradient_vanishes_at_the_optimum_without_exploration(
    x64: None, tables
):
    reward, ref = tables

    @jax.jit
    @jax.grad
    def slope(logits: jax.Array, alpha: jax.Array) -> jax.Array:
        policy = jax.nn.log_softmax(logits)
        return preference.selm_population_loss(
            policy, ref, reward, alpha=alpha, beta=BETA
        ).sum()

    best = normalized(ref + reward / BETA)
    np.testing.assert_allclose(slope(best, 0.0), np.zeros((3, 5)), atol=1e-15)
    # With it: alpha beta (ref - pi), the paper's E_pi[(ref / pi) grad log pi].
    expected = 0.3 * BETA * (np.exp(ref) - np.exp(best))
    np.testing.assert_allclose(slope(best, 0.3), expected, atol=1e-14)


def test_population_loss_holds_reference_and_sampler_fixed(x64: None, tables):
    reward, ref = tables
    policy = normalized(reward)
    slopes = jax.grad(
        lambda p, r, s: preference.selm_population_loss(
            p, r, reward, sampler_log_probs=s
        ).sum(),
        argnums=(0, 1, 2),
    )(jnp.asarray(policy), jnp.asarray(ref), jnp.asarray(ref))
    assert np.any(slopes[0])
    assert not np.any(slopes[1])
    assert not np.any(slopes[2])


def test_rates_obey_their_relations(x64: None):
    options = {"eluder_coefficient": 6.0, "log_class_size": 3.0}
    rounds = jnp.array([100.0, 400.0])
    one = preference.selm_rates(rounds, log_ratio_bound=1.0, **options)
    assert isinstance(one, preference.SelmRates)
    np.testing.assert_allclose(one.eta * one.alpha * np.exp(4.0), 2.0, rtol=1e-12)
    np.testing.assert_allclose(one.regret[1] / one.regret[0], 2.0, rtol=1e-12)
    # Optimism and its price balance: T d / eta = eta e^{4R} log(|Pi| / delta).
    left = rounds * 6.0 / one.eta
    np.testing.assert_allclose(left, one.eta * np.exp(4.0) * 3.0, rtol=1e-12)
    np.testing.assert_allclose(left, one.regret, rtol=1e-12)
    two = preference.selm_rates(rounds, log_ratio_bound=2.0, **options)
    np.testing.assert_allclose(two.regret / one.regret, np.exp(2.0), rtol=1e-12)
