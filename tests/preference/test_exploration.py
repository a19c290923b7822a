"""The exploration term: values, slopes, and what it does to a softmax policy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit import preference

GOLDEN = (-10.0, -14.0, -20.0, -11.0, -13.0, -18.0)
LOSSES = {
    "selm": (preference.selm_loss, 6),
    "xpo": (preference.xpo_loss, 5),
    "vpo": (preference.vpo_loss, 6),
    "se_popo": (preference.se_popo_loss, 6),
}
BONUSES = ("log_ratio", "log_prob", "sigmoid", "prob_ratio", "prob")


def arrays(*values: float) -> tuple[jax.Array, ...]:
    return tuple(jnp.array([value]) for value in values)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def test_golden_values(x64: None):
    selm = preference.selm_loss(*arrays(*GOLDEN), alpha=0.01, beta=0.1)
    xpo = preference.xpo_loss(*arrays(*GOLDEN[:5]), alpha=1e-3, beta=0.1)
    np.testing.assert_allclose(selm, 0.596138869382, rtol=1e-11)
    np.testing.assert_allclose(xpo, 0.578138869382, rtol=1e-11)


@pytest.mark.parametrize("bonus", BONUSES)
def test_bonuses_equal_their_formulas(bonus: str, x64: None):
    rng = np.random.default_rng(0)
    logps, ref = -rng.uniform(0.1, 4.0, (2, 50))
    alpha, beta, ratio = 0.3, 0.2, logps - ref
    expected = {
        "log_ratio": alpha * beta * ratio,
        "log_prob": alpha * logps,
        "sigmoid": alpha * (sigmoid(beta * ratio) - 0.5) / beta,
        "prob_ratio": alpha * beta * np.exp(np.minimum(ratio, 0.0)),
        "prob": alpha * beta * np.exp(logps),
    }[bonus]
    got = preference.exploration_bonus(
        jnp.asarray(logps), jnp.asarray(ref), alpha=alpha, beta=beta, bonus=bonus
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_prob_ratio_has_its_full_slope_where_rounds_start(x64: None):
    slope = jax.vmap(
        jax.grad(
            lambda x: preference.exploration_bonus(
                x, -2.0, alpha=0.5, beta=0.1, bonus="prob_ratio"
            )
        )
    )(jnp.array([-3.0, -2.0, -1.0]))
    np.testing.assert_allclose(slope, [0.05 * np.exp(-1.0), 0.05, 0.0], rtol=1e-12)


def test_bounded_bonuses_are_bounded():
    logps, ref = jnp.array([-1e4, -5e3, 0.0]), jnp.full(3, -30.0)
    for bonus, low, high in (
        ("sigmoid", -5.0, 5.0),
        ("prob_ratio", 0.0, 0.1),
        ("prob", 0.0, 0.1),
    ):
        values = preference.exploration_bonus(
            logps, ref, alpha=1.0, beta=0.1, bonus=bonus
        )
        assert low <= float(values.min()) <= float(values.max()) <= high + 1e-6
        assert float(values[0]) <= float(values[2])


def test_slopes_in_the_log_probabilities(x64: None):
    alpha, beta, a, b = 0.01, 0.1, 1.0, -1.0
    slopes = jax.grad(
        lambda *x: preference.selm_loss(*x, alpha=alpha, beta=beta).sum(),
        argnums=tuple(range(6)),
    )(*arrays(*GOLDEN))
    wrong = sigmoid(-beta * (a - b))
    expected = (-beta * wrong, beta * wrong, alpha * beta, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(np.ravel(slopes), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_reference(name: str):
    loss, count = LOSSES[name]
    slopes = jax.grad(lambda *x: loss(*x, alpha=0.5).sum(), argnums=tuple(range(count)))
    got = np.ravel(slopes(*arrays(*GOLDEN[:count])))
    assert np.all(got[:3] != 0)
    assert np.all(got[3:] == 0)


def test_the_named_losses_are_selm_in_other_words(x64: None):
    logps = arrays(*GOLDEN)
    selm = lambda **options: preference.selm_loss(*logps, beta=0.1, **options)
    shift = 0.3 * GOLDEN[5]
    xpo = preference.xpo_loss(*logps[:5], alpha=0.3)
    np.testing.assert_allclose(xpo - shift, selm(alpha=3.0), rtol=1e-12)
    vpo = preference.vpo_loss(*logps, alpha=0.3, sign=-1.0)
    np.testing.assert_allclose(vpo, selm(alpha=0.3, sign=-1.0), rtol=1e-14)
    popo = preference.se_popo_loss(*logps, alpha=0.3)
    np.testing.assert_allclose(popo, selm(alpha=0.3, bonus="sigmoid"), rtol=1e-14)


def test_without_alpha_it_is_dpo():
    logps = arrays(*GOLDEN)
    pair = (*logps[:2], *logps[3:5])
    options = {"beta": 0.1, "label_smoothing": 0.1}
    for bonus in BONUSES:
        selm = preference.selm_loss(*logps, alpha=0.0, bonus=bonus, **options)
        chex.assert_trees_all_equal(selm, preference.dpo_loss(*pair, **options))


def test_the_two_masks_are_independent():
    logps = tuple(jnp.full(4, x) for x in GOLDEN)
    where = jnp.array([True, True, False, False])
    explore = jnp.array([True, False, True, False])
    loss = preference.selm_loss(
        *logps, alpha=0.01, beta=0.1, where=where, explore_where=explore
    )
    np.testing.assert_allclose(loss, [0.596138869, 0.598138869, -0.002, 0], rtol=1e-5)


def test_extreme_answers():
    low = -jnp.inf
    fine = preference.selm_loss(*arrays(-1.0, low, -2.0, -1.0, -1.0, -2.0))
    assert float(fine[0]) == 0.0
    broken = preference.selm_loss(*arrays(-1.0, -1.0, -2.0, -1.0, -1.0, low))
    assert np.isnan(broken[0])
    empty = preference.selm_loss(*(jnp.zeros(0),) * 6)
    assert empty.shape == (0,)


def test_a_beta_that_is_not_positive_is_reported():
    run = checkify.checkify(
        lambda beta: preference.exploration_bonus(-1.0, -1.0, beta=beta)
    )
    assert run(0.1)[0].get() is None
    assert "`beta` must be positive" in run(0.0)[0].get()


# What the term does to a policy softmax(logits).

LOGITS = np.array([0.3, -0.2, 1.1, 0.5])
REF = LOGITS - np.log(np.exp(LOGITS).sum())
ALPHA, BETA = 0.4, 0.1


def bonus_slope(logits: np.ndarray, weights: np.ndarray) -> jax.Array:
    """Gives the gradient in the logits of the bonus averaged over y'."""

    def term(logits: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(logits)
        bonus = preference.exploration_bonus(
            log_probs, jnp.asarray(REF), alpha=ALPHA, beta=BETA
        )
        return jnp.sum(jnp.asarray(weights) * bonus)

    return jax.grad(term)(jnp.asarray(logits))


def test_a_sampled_answer_does_not_explore_at_the_reference(x64: None):
    slope = bonus_slope(LOGITS, np.exp(REF))
    np.testing.assert_allclose(slope, np.zeros(4), atol=1e-16)


def test_away_from_the_reference_it_amplifies(x64: None):
    moved = LOGITS + np.array([0.5, 0.0, 0.0, 0.0])
    policy = np.exp(moved) / np.exp(moved).sum()
    slope = bonus_slope(moved, np.exp(REF))
    np.testing.assert_allclose(slope, ALPHA * BETA * (np.exp(REF) - policy), rtol=1e-12)
    assert slope[0] < 0, "descent raises the answer that was raised already"


def test_one_greedy_answer_is_pushed_down(x64: None):
    greedy = np.eye(4)[np.argmax(REF)]
    slope = bonus_slope(LOGITS, greedy)
    np.testing.assert_allclose(slope, ALPHA * BETA * (greedy - np.exp(REF)), rtol=1e-12)


def test_exploring_the_chosen_answer_balances_its_push(x64: None):
    moved = LOGITS + np.array([0.8, -0.4, 0.1, 0.0])
    log_probs = moved - np.log(np.exp(moved).sum())
    chosen, rejected = 0, 1
    policy, ratio = np.exp(log_probs), log_probs - REF
    wrong = sigmoid(-BETA * (ratio[chosen] - ratio[rejected]))

    @jax.jit
    @jax.grad
    def slope(logits: jax.Array, alpha: jax.Array) -> jax.Array:
        logps, ref = jax.nn.log_softmax(logits), jnp.asarray(REF)
        index = jnp.array([chosen, rejected, chosen])
        return preference.selm_loss(*logps[index], *ref[index], alpha=alpha, beta=BETA)

    # The logit of the chosen answer rests at s(-m) = alpha (1 - pi_w) ...
    rest = slope(moved, wrong / (1 - policy[chosen]))
    np.testing.assert_allclose(rest[chosen], 0.0, atol=1e-15)
    # ... and the margin where that of the rejected one falls as fast.
    still = slope(moved, 2 * wrong / (1 - policy[chosen] + policy[rejected]))
    np.testing.assert_allclose(still[chosen], still[rejected], atol=1e-15)
    assert still[chosen] > 0


def test_the_bonus_of_the_log_ratio_annihilates_and_the_bounded_one_does_not(x64: None):
    def descend(bonus: str) -> float:
        def loss(logits: jax.Array) -> jax.Array:
            first = jax.nn.log_softmax(logits)[0]
            return preference.exploration_bonus(
                first, REF[0], alpha=1.0, beta=1.0, bonus=bonus
            )

        step = lambda x, _: (x - jax.grad(loss)(x), None)
        logits, _ = jax.lax.scan(step, jnp.asarray(LOGITS), length=100)
        return float(jax.nn.log_softmax(logits)[0])

    assert descend("log_ratio") < -80
    assert -12 < descend("prob_ratio") < REF[0]
