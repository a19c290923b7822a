import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement
from jaxkit.entanglement import Changes, Coefficients, PairGram, Regime


def gram_of(chosen, rejected):
    """The Gram of explicit gradients, shape [..., dim]."""
    dot = lambda x, y: (x * y).sum(axis=-1)
    return PairGram(dot(chosen, chosen), dot(chosen, rejected), dot(rejected, rejected))


def random_pairs(count=400):
    """Gradients and coefficients; every third pair has one of a negative sign."""
    rng = np.random.default_rng(0)
    chosen, noise = rng.standard_normal((2, count, 4))
    rejected = (
        rng.uniform(-1, 2, (count, 1)) * chosen + rng.uniform(0, 1, (count, 1)) * noise
    )
    d_w, d_l = rng.uniform(0.05, 2.0, (2, count))
    d_w[::3] *= np.sign(rng.standard_normal(d_w[::3].shape))
    d_l[::3] *= np.sign(rng.standard_normal(d_l[::3].shape))
    return chosen, rejected, d_w, d_l


def test_fields_are_words_in_the_order_of_the_paper():
    assert PairGram._fields == ("chosen", "cross", "rejected")
    assert Coefficients._fields == Changes._fields == ("chosen", "rejected")
    assert [regime.value for regime in Regime] == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("ratio", "changes", "regime", "share"),
    [
        (1.0, (-1.0, -3.0), Regime.BOTH_DOWN, -0.5),
        (2.2, (0.2, -0.6), Regime.IDEAL, 0.44 / 1.04),
        (3.0, (1.0, 1.0), Regime.BOTH_UP, 1.5),
        (4.0, (2.0, 3.0), Regime.BOTH_UP, 1.6),
        (np.sqrt(5.0), None, Regime.IDEAL, 0.5),
    ],
)
def test_the_example_by_hand(ratio, changes, regime, share):
    gram = gram_of(np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    pushes = Coefficients(ratio, 1.0)
    got = entanglement.predicted_changes(gram, pushes)
    if changes is not None:
        np.testing.assert_allclose(got, changes, rtol=1e-12)
    assert entanglement.entanglement_regime(gram, pushes) == regime
    np.testing.assert_allclose(
        entanglement.chosen_share(gram, pushes), share, rtol=1e-12
    )
    lower, upper = entanglement.ideal_ratio_interval(gram)
    np.testing.assert_allclose((lower, upper), (2.0, 2.5), rtol=1e-15)
    np.testing.assert_allclose(
        entanglement.pair_cosine(gram), 2 / np.sqrt(5.0), rtol=1e-15
    )


@pytest.mark.usefixtures("x64")
def test_changes_equal_the_products_with_the_explicit_direction():
    chosen, rejected, d_w, d_l = random_pairs()
    direction = d_w[:, None] * chosen - d_l[:, None] * rejected
    got = entanglement.predicted_changes(
        gram_of(chosen, rejected), Coefficients(d_w, d_l)
    )
    np.testing.assert_allclose(got.chosen, (chosen * direction).sum(-1), atol=1e-12)
    np.testing.assert_allclose(got.rejected, (rejected * direction).sum(-1), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_share_regime_and_interval_agree():
    chosen, rejected, d_w, d_l = random_pairs()
    gram, pushes = gram_of(chosen, rejected), Coefficients(d_w, d_l)
    direction = d_w[:, None] * chosen - d_l[:, None] * rejected
    up, other = ((g * direction).sum(-1) for g in (chosen, rejected))
    # The weighted margin never falls at first order.
    grown = d_w * up - d_l * other
    np.testing.assert_allclose(grown, (direction**2).sum(-1), rtol=1e-9)
    share = np.asarray(entanglement.chosen_share(gram, pushes))
    np.testing.assert_allclose(share, d_w * up / grown, rtol=1e-9)
    regime = np.asarray(entanglement.entanglement_regime(gram, pushes))
    by_sign = np.select(
        [(up > 0) & (other < 0), (up < 0) & (other < 0), (up > 0) & (other > 0)],
        [0, 1, 2],
        3,
    )
    np.testing.assert_array_equal(regime, by_sign)
    assert set(regime) == {0, 1, 2, 3}
    positive = (d_w > 0) & (d_l > 0)
    by_share = np.select([share < 0, share > 1], [1, 2], 0)
    np.testing.assert_array_equal(regime[positive], by_share[positive])
    lower, upper = entanglement.ideal_ratio_interval(gram)
    inside = (lower < d_w / d_l) & (d_w / d_l < upper)
    np.testing.assert_array_equal(inside[positive], regime[positive] == 0)
    finite = np.isfinite(upper)
    kappa = np.sqrt(gram.rejected / gram.chosen)
    np.testing.assert_allclose(np.sqrt(lower * upper)[finite], kappa[finite], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_plain_margin_may_fall_although_the_weighted_one_cannot():
    chosen, rejected, d_w, d_l = (x[:] for x in random_pairs())
    d_w, d_l = np.abs(d_w), np.abs(d_l)
    gram = gram_of(chosen, rejected)
    got = entanglement.predicted_changes(gram, Coefficients(d_w, d_l))
    ratio, kappa = d_w / d_l, np.sqrt(gram.rejected / gram.chosen)
    cosine = np.asarray(entanglement.pair_cosine(gram))
    rises = ratio * (1 - cosine * kappa) + kappa**2 - cosine * kappa > 0
    np.testing.assert_array_equal(np.asarray(got.chosen > got.rejected), rises)
    assert 0 < rises.mean() < 1


def test_degenerate_pairs_are_undetermined_and_hold_no_nan():
    zero, one = jnp.zeros(()), jnp.ones(())
    cases = {
        "no gradient": PairGram(zero, zero, zero),
        "no chosen gradient": PairGram(zero, zero, one),
        "no rejected gradient": PairGram(one, zero, zero),
        "equal answers": PairGram(one / 3, one / 3, one / 3),
    }
    stacked = PairGram(*map(jnp.stack, zip(*cases.values(), strict=True)))
    pushes = Coefficients(jnp.full(4, 0.1), jnp.full(4, 0.1))
    regimes = entanglement.entanglement_regime(stacked, pushes)
    np.testing.assert_array_equal(regimes, [4, 4, 4, 4])
    np.testing.assert_allclose(entanglement.pair_cosine(stacked), [0, 0, 0, 1])
    np.testing.assert_allclose(
        entanglement.chosen_share(stacked, pushes), [0, 0, 1, 0], atol=1e-7
    )
    lower, upper = entanglement.ideal_ratio_interval(stacked)
    np.testing.assert_allclose(lower, [0, 0, 0, 1])
    np.testing.assert_allclose(upper, [0, 0, 0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_entry_that_is_not_finite_is_undetermined(bad):
    pushes = Coefficients(jnp.full(3, 2.0), jnp.full(3, 1.0))
    for entries in ((bad, 0.0, 1.0), (1.0, -bad, 1.0), (1.0, 0.0, bad)):
        gram = PairGram(*(jnp.full(3, x) for x in entries))
        regimes = entanglement.entanglement_regime(gram, pushes)
        np.testing.assert_array_equal(regimes, [4, 4, 4])
    gram = PairGram(jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    broken = Coefficients(jnp.full(3, np.nan), jnp.ones(3))
    np.testing.assert_array_equal(
        entanglement.entanglement_regime(gram, broken), [4, 4, 4]
    )


def test_saturated_pairs_are_still_classified():
    gram = PairGram(jnp.full(2, 1e-10), jnp.full(2, 2e-10), jnp.full(2, 5e-10))
    tiny = Coefficients(jnp.array([1e-37, 2.2e-37]), jnp.full(2, 1e-37))
    assert not np.any(entanglement.predicted_changes(gram, tiny).chosen)
    np.testing.assert_array_equal(
        entanglement.entanglement_regime(gram, tiny), [Regime.BOTH_DOWN, Regime.IDEAL]
    )
    np.testing.assert_allclose(
        entanglement.chosen_share(gram, tiny), [-0.5, 0.44 / 1.04], rtol=1e-5
    )


def test_rounding_that_breaks_cauchy_and_schwarz_gives_no_share():
    gram = PairGram(jnp.ones(()), jnp.asarray(1 + 1e-6), jnp.ones(()))
    assert entanglement.chosen_share(gram, Coefficients(1.0, 1.0)) == 0.0


def test_masked_pairs_are_undetermined():
    gram = PairGram(jnp.array([1.0, jnp.nan]), jnp.zeros(2), jnp.ones(2))
    pushes = Coefficients(jnp.ones(2), jnp.ones(2))
    where = jnp.array([True, False])
    regimes = entanglement.entanglement_regime(gram, pushes, where=where)
    np.testing.assert_array_equal(regimes, [0, 4])


def test_trust_step():
    first = jnp.array([104.07, -104.07, 1.0, -1.0, 0.0, 1e-30])
    second = jnp.array([-5604.0, 5604.0, 2.0, -2.0, -1.0, -1e-30])
    turn = 2 * 104.07 / 5604
    np.testing.assert_allclose(
        entanglement.trust_step(first, second),
        [turn, turn, np.inf, np.inf, np.inf, 2.0],
        rtol=1e-6,
    )
