"""The losses of pairs: published numbers, values and slopes of random pairs."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference
from jaxkit.preference import LOSS_TYPES, PairLogps
from tests.preference._formulas import FORMULAS

PAIR = PairLogps(-10.0, -14.0, -11.0, -13.0)
LENGTHS = {"chosen_lengths": 5, "rejected_lengths": 8}
SHARED = {"beta": 0.3, "label_smoothing": 0.1}
# What the losses read besides; sigmoid_norm has no label smoothing of its own.
HYPER: dict[str, dict[str, float]] = {
    "hinge": {"beta": 0.3},
    "ipo": {"beta": 0.3},
    "sigmoid_norm": {"beta": 2.0},
    "nca_pair": {"beta": 0.3},
    "bco_pair": {"beta": 0.3, "reward_shift": 0.4},
    "sppo_hard": {"beta": 0.3},
    "apo_zero": {"beta": 0.3},
    "apo_down": {"beta": 0.3},
    "discopop": {"beta": 0.3, "tau": 0.2},
    "sft": {},
    "simpo": {**SHARED, "beta": 2.0, "gamma": 0.5},
    "alphapo": {**SHARED, "beta": 2.0, "gamma": 0.5, "alpha": 0.3},
    "orpo": {"weight": 0.7},
}


def names_in(loss: Any) -> set[str]:
    return set(inspect.signature(loss).parameters)


def random_pairs(seed: int = 0) -> tuple[PairLogps, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    pair = PairLogps(*(-rng.uniform(1.0, 12.0, 64) for _ in range(4)))
    lengths = {name: rng.integers(1, 12, 64) for name in LENGTHS}
    return pair, lengths


def inputs_of_formula(
    pair: PairLogps, lengths: dict[str, Any], hyper: dict[str, float]
) -> dict[str, Any]:
    return {
        "w": pair.chosen,
        "l": pair.rejected,
        "a": pair.chosen - pair.ref_chosen,
        "b": pair.rejected - pair.ref_rejected,
        "nw": lengths["chosen_lengths"].astype(np.float64),
        "nl": lengths["rejected_lengths"].astype(np.float64),
        "label_smoothing": 0.0,
        **hyper,
    }


@pytest.mark.parametrize(
    ("name", "hyper", "digits"),
    [
        ("sigmoid", {}, "0.598138869382"),
        ("sigmoid", {"label_smoothing": 0.1}, "0.618138869382"),
        ("hinge", {}, "0.8"),
        ("ipo", {}, "21.855625"),
        ("ipo", {"length_normalize": False}, "9.0"),
        ("exo_pair", {"label_smoothing": 1e-3}, "2.42201462066"),
        ("nca_pair", {}, "1.33879332015"),
        ("robust", {"label_smoothing": 0.1}, "0.573138869382"),
        ("bco_pair", {}, "1.28879332015"),
        ("sppo_hard", {}, "32.0"),
        ("apo_zero", {}, "0.950041625042"),
        ("apo_down", {}, "0.975145190166"),
        ("discopop", {"tau": 0.05}, "0.814763141142"),
        ("sigmoid_norm", {"beta": 2.0}, "0.420055335703"),
        ("simpo", {"beta": 2.0, "gamma": 1.0}, "1.70141327798"),
        ("cpo", {}, "0.5130152524"),
        ("sigmoid", {"divergence": "js"}, "0.644396660074"),
        ("sigmoid", {"divergence": "forward_kl"}, "0.58251671346"),
        (
            "sigmoid",
            {"divergence": "alpha", "divergence_alpha": 0.5},
            "0.594349122972",
        ),
    ],
)
def test_published_numbers(name: str, hyper: dict[str, Any], digits: str, x64: None):
    config = {"beta": 0.1, **hyper} if "orpo" not in name else hyper
    config = preference.PreferenceConfig(loss_type=name, **config)
    value = preference.preference_loss(PAIR, config, **LENGTHS)
    assert_digits(value, digits)


def assert_digits(value: Any, digits: str) -> None:
    last = 10.0 ** -len(digits.split(".")[1])
    assert abs(float(value) - float(digits)) <= 0.51 * last + 1e-14


def test_published_numbers_of_the_other_losses(x64: None):
    args = (-10.0, -14.0, *LENGTHS.values())
    odds_ratio = preference.odds_ratio_loss(*args)
    assert_digits(odds_ratio, "0.851757483081")
    # The loss is log(1 + e^-x) of the log odds ratio x.
    assert_digits(-np.log(np.expm1(float(odds_ratio))), "-0.295473408825")
    np.testing.assert_allclose(
        preference.orpo_loss(*args, weight=0.1), 2.0 + 0.1 * odds_ratio, rtol=1e-14
    )
    kto = preference.kto_loss(
        jnp.array([-10.0, -14.0]),
        jnp.array([-11.0, -13.0]),
        jnp.array([True, False]),
        kl_estimate=0.5,
    )
    assert_digits(kto[0], "0.487502603516")
    assert_digits(kto[1], "0.462570154656")
    slopes = preference.loss_slopes(preference.dpo_loss, PAIR, beta=0.1)
    assert_digits(slopes.chosen, "-0.0450166002688")


def fields(loss: Any, pair: PairLogps) -> dict[str, Any]:
    named = {f"{name}_logps": value for name, value in pair._asdict().items()}
    return {name: value for name, value in named.items() if name in names_in(loss)}


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    """Value and slopes of every loss on random pairs, in one program."""
    pair, lengths = random_pairs()

    @jax.jit
    def run(pair: PairLogps) -> dict[str, Any]:
        out = {}
        for name, loss in LOSS_TYPES.items():
            given = {k: v for k, v in lengths.items() if k in names_in(loss)}
            given |= HYPER.get(name, SHARED)
            slopes = preference.loss_slopes(loss, pair, **given)
            out[name] = (loss(**fields(loss, pair), **given), *slopes)
        return out

    with jax.enable_x64(True):
        return run(pair)


@pytest.mark.parametrize("name", sorted(LOSS_TYPES))
def test_value_and_slopes_of_random_pairs(name: str, everything: dict[str, Any]):
    pair, lengths = random_pairs()
    hyper = HYPER.get(name, SHARED)
    expected = FORMULAS[name](inputs_of_formula(pair, lengths, hyper))
    for got, want in zip(everything[name], expected, strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSS_TYPES)


def test_no_gradient_flows_into_the_reference():
    pair = PairLogps(*(jnp.array([x, x - 1.0]) for x in PAIR))
    lengths = {name: jnp.array([5, 8]) for name in LENGTHS}

    @jax.jit
    @jax.grad
    def gradient(references: tuple[jax.Array, jax.Array]) -> jax.Array:
        here = pair._replace(ref_chosen=references[0], ref_rejected=references[1])
        total = jnp.zeros(())
        for loss in LOSS_TYPES.values():
            given = {k: v for k, v in lengths.items() if k in names_in(loss)}
            total += jnp.sum(loss(**fields(loss, here), **given))
        return total + jnp.sum(
            preference.kto_loss(
                here.chosen, here.ref_chosen, jnp.array([True, False]), kl_estimate=0.1
            )
        )

    for leaf in gradient((pair.ref_chosen, pair.ref_rejected)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_slope_of_the_hinge_at_its_corner_is_zero():
    slopes = preference.loss_slopes(
        preference.hinge_loss, PairLogps(2.0, 0.0, 0.0, 0.0), beta=0.5
    )
    assert float(slopes.chosen) == 0.0 == float(slopes.rejected)


def test_a_policy_that_is_its_reference_loses_log_two_exactly():
    pair = PairLogps(-3.25, -14.125, -3.25, -14.125)
    assert float(preference.dpo_loss(*pair)) == np.float32(np.log(2.0))


def test_one_hyper_parameter_per_pair(x64: None):
    pair, _ = random_pairs()
    beta = np.linspace(0.1, 1.0, 64)
    together = preference.dpo_loss(*pair, beta=beta)
    alone = [preference.dpo_loss(*(x[i] for x in pair), beta=beta[i]) for i in range(3)]
    np.testing.assert_allclose(together[:3], alone, rtol=1e-14)


def test_gradient_in_the_hyper_parameters(x64: None):
    def value(beta: jax.Array, eps: jax.Array) -> jax.Array:
        return preference.dpo_loss(*PAIR, beta=beta, label_smoothing=eps)

    # l = softplus(-m) + eps m with m = 2 beta: the slope in eps is m, at 0 as well.
    by_beta, by_eps = jax.grad(value, argnums=(0, 1))(0.1, 0.0)
    np.testing.assert_allclose(by_beta, -2.0 / (1.0 + np.exp(0.2)), rtol=1e-13)
    np.testing.assert_allclose(by_eps, 0.2, rtol=1e-13)


def test_no_gradient_flows_into_the_threshold():
    by_shift = jax.grad(lambda shift: preference.bco_loss(*PAIR, reward_shift=shift))
    assert float(by_shift(0.3)) == 0.0


def test_lengths_of_zero_count_as_one():
    zero = preference.ipo_loss(*PAIR, 0, 0)
    one = preference.ipo_loss(*PAIR, 1, 1)
    np.testing.assert_array_equal(zero, one)


def test_masked_references_and_lengths_may_hold_anything():
    bad = jnp.array([-1.0, jnp.nan])
    pair = (jnp.array([-10.0, -jnp.inf]), jnp.array([-14.0, jnp.nan]), bad, bad)
    where = jnp.array([True, False])

    def total(chosen: jax.Array) -> jax.Array:
        lengths = jnp.array([5.0, jnp.nan])
        return jnp.sum(
            preference.ipo_loss(chosen, *pair[1:], lengths, lengths, where=where)
        )

    value, gradient = jax.value_and_grad(total)(pair[0])
    assert np.isfinite(value)
    assert np.isfinite(gradient[0])
    assert float(gradient[1]) == 0.0


def test_a_masked_pair_loses_nothing():
    pair = PairLogps(*(jnp.array([x, x - 1.0]) for x in PAIR))
    lengths = {name: jnp.array([5, 8]) for name in LENGTHS}
    able = {n: loss for n, loss in LOSS_TYPES.items() if "where" in names_in(loss)}

    @jax.jit
    def run(where: jax.Array) -> dict[str, jax.Array]:
        return {
            name: loss(
                **fields(loss, pair),
                **{k: v for k, v in lengths.items() if k in names_in(loss)},
                where=where,
            )
            for name, loss in able.items()
        }

    plain, masked = run(jnp.array([True, True])), run(jnp.array([True, False]))
    for name in able:
        assert float(masked[name][1]) == 0.0 != float(plain[name][1]), name
        assert float(masked[name][0]) == float(plain[name][0]), name


def test_an_empty_batch_gives_an_empty_loss():
    empty = (jnp.zeros(0),) * 4
    assert preference.dpo_loss(*empty).shape == (0,)
    assert preference.aot_loss(*empty).shape == (0,)


def test_token_average_weighs_long_answers_more():
    logps, lengths = jnp.array([-10.0, -6.0, jnp.nan]), jnp.array([5, 4, 9])
    where = jnp.array([True, True, False])
    loss = preference.sft_loss(logps, lengths, token_average=True, where=where)
    np.testing.assert_allclose(jnp.sum(loss) / 2, 16.0 / 9.0, rtol=1e-6)
    plain = preference.sft_loss(logps, lengths, where=where)
    np.testing.assert_allclose(plain, [2.0, 1.5, 0.0], rtol=1e-6)
