"""Values and slopes at the ends: very wrong, very sure and impossible answers."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference
from jaxkit.preference import LOSS_TYPES, PairLogps

ENDS = (0.0, -1e-8, -1e-3, -1.0, -335.0, -1e4)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest):
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def fields(loss: Any, pair: PairLogps) -> dict[str, Any]:
    names = inspect.signature(loss).parameters
    named = {f"{name}_logps": value for name, value in pair._asdict().items()}
    return {name: value for name, value in named.items() if name in names}


def value_and_slopes(
    loss: Any, pair: PairLogps, dtype: Any, **hyper: Any
) -> tuple[jax.Array, preference.PairSlopes]:
    pair = PairLogps(*(jnp.asarray(x, dtype) for x in pair))
    value = loss(**fields(loss, pair), **hyper)
    return value, preference.loss_slopes(loss, pair, **hyper)


def margin_pair(*margins: float) -> PairLogps:
    """Pairs whose margin is the given one at beta = 1."""
    zero = np.zeros(len(margins))
    return PairLogps(np.asarray(margins), zero, zero, zero)


def grid(*axes: Any) -> list[np.ndarray]:
    return list(np.array(np.meshgrid(*axes)).reshape(len(axes), -1))


def not_finite(runs: dict[Any, Any], pair: PairLogps, dtype: Any) -> list[Any]:
    """Runs all in one program and names those whose value or slope is not finite."""
    pair = PairLogps(*(jnp.asarray(x, dtype) for x in pair))

    def one(loss: Any, options: dict[str, Any], pair: PairLogps) -> Any:
        def total(policy: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            here = pair._replace(chosen=policy[0], rejected=policy[1])
            value = loss(**fields(loss, here), **options)
            return jnp.sum(value), value

        return jax.grad(total, has_aux=True)((pair.chosen, pair.rejected))

    @jax.jit
    def everything(pair: PairLogps) -> dict[Any, Any]:
        return {name: one(*run, pair) for name, run in runs.items()}

    out = everything(pair)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(out))
    return [
        name
        for name, leaves in out.items()
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(leaves))
    ]


def test_finite_wherever_log_probabilities_are(dtype: Any):
    chosen, rejected, reference = grid(ENDS, ENDS, (-50.0, -1e-3))
    pair = PairLogps(chosen, rejected, reference, reference)
    lengths = {"chosen_lengths": np.array(3), "rejected_lengths": np.array(3)}
    runs = {
        name: (
            loss,
            {
                k: v
                for k, v in lengths.items()
                if k in inspect.signature(loss).parameters
            },
        )
        for name, loss in LOSS_TYPES.items()
    }
    assert not_finite(runs, pair, dtype) == []


def test_divergences_are_finite_at_the_ends(dtype: Any):
    zero = np.zeros(len(ENDS) ** 2)
    runs = {
        (divergence, name): (LOSS_TYPES[name], {"divergence": divergence})
        for divergence in ("forward_kl", "js", "alpha")
        for name in ("sigmoid", "discopop")[: 1 if divergence == "js" else 2]
    }
    # The square needs twice the room.
    for divergence in ("forward_kl", "alpha"):
        options = {"divergence": divergence, "length_normalize": False}
        runs[divergence, "ipo"] = (preference.ipo_loss, options)
    assert not_finite(runs, PairLogps(*grid(ENDS, ENDS), zero, zero), dtype) == []


def test_dpo_of_very_wrong_and_very_sure_pairs(dtype: Any):
    value, slopes = value_and_slopes(
        preference.dpo_loss, margin_pair(-1e4, 1e4), dtype, beta=1.0
    )
    np.testing.assert_array_equal(value, [1e4, 0.0])
    np.testing.assert_array_equal(slopes.chosen, [-1.0, 0.0])


def test_searched_loss_of_very_wrong_pairs_is_their_margin(dtype: Any):
    value, slopes = value_and_slopes(
        preference.discopop_loss, margin_pair(-335.0, -1e4), dtype, beta=1.0
    )
    np.testing.assert_array_equal(value, [335.0, 1e4])
    np.testing.assert_array_equal(slopes.chosen, [-1.0, -1.0])


def test_soft_labels_end_at_the_margin_they_imply(dtype: Any):
    eps = 1e-3
    implied = np.log((1 - eps) / eps)
    value, slopes = value_and_slopes(
        preference.exo_loss, margin_pair(-1e4, implied, 1e4), dtype, beta=1.0
    )
    # A sure answer pays the logarithm of the label that it rules out.
    np.testing.assert_allclose(
        value, [-np.log(eps), 0.0, -np.log(1 - eps)], rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(slopes.chosen, 0.0, atol=1e-7)


def test_forward_kl_is_exact_up_to_its_cut(x64: None):
    a = jnp.array([-30.0, -100.0, -690.0])
    score = preference.f_divergence_score(a, divergence="forward_kl")
    np.testing.assert_allclose(score, -np.expm1(-np.asarray(a)), rtol=1e-14)
    beyond = jnp.array([-1e3, -jnp.inf], jnp.float32)
    score = preference.f_divergence_score(beyond, divergence="forward_kl")
    np.testing.assert_allclose(score, -np.expm1(80.0), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_answer_that_the_policy_rules_out(smoothing: float):
    pair = (-10.0, -jnp.inf, -11.0, -13.0)
    value, slopes = value_and_slopes(
        preference.dpo_loss, PairLogps(*pair), jnp.float32, label_smoothing=smoothing
    )
    assert float(value) == (0.0 if smoothing == 0.0 else np.inf)
    if smoothing == 0.0:
        assert float(slopes.chosen) == 0.0 == float(slopes.rejected)


def test_an_answer_ruled_out_is_finite_in_other_losses():
    names = ("hinge", "exo_pair", "discopop", "apo_zero", "apo_down", "nca_pair")
    runs = {name: (LOSS_TYPES[name], {}) for name in (*names, "bco_pair")}
    pair = PairLogps(-10.0, -jnp.inf, -11.0, -13.0)
    assert not_finite(runs, pair, jnp.float32) == []


@pytest.mark.parametrize("policy", [-14.0, -np.inf])
def test_an_answer_that_the_reference_rules_out_gives_nan(policy: float):
    pair = PairLogps(-10.0, policy, -11.0, -jnp.inf)
    value, slopes = value_and_slopes(preference.dpo_loss, pair, jnp.float32)
    assert np.isnan(value)
    assert np.isnan(slopes.chosen)
    assert np.isnan(slopes.rejected)
    sorted_pair = [jnp.full(2, x, jnp.float32) for x in pair]
    assert np.all(np.isnan(preference.aot_loss(*sorted_pair)))


def odds_ratio(chosen: float, rejected: float, dtype: Any) -> tuple[Any, Any]:
    pair = PairLogps(*(jnp.asarray(x, dtype) for x in (chosen, rejected)))
    lengths = {"chosen_lengths": 1, "rejected_lengths": 1}
    return (
        preference.odds_ratio_loss(pair.chosen, pair.rejected, **lengths),
        preference.loss_slopes(preference.odds_ratio_loss, pair, **lengths),
    )


def test_odds_ratio_of_an_almost_certain_answer(x64: None):
    value, slopes = odds_ratio(-1e-8, -1.0, jnp.float64)
    np.testing.assert_allclose(value, 5.819767080857e-09, rtol=1e-12)
    np.testing.assert_allclose(slopes.chosen, -0.58197670930, rtol=1e-10)
    value, slopes = odds_ratio(-60.0, -50.0, jnp.float64)
    np.testing.assert_allclose(value, 10.0000453989, rtol=1e-12)


def test_odds_ratio_of_a_certain_answer(dtype: Any):
    for rejected in (-1.0, -1e-3, -1e4):
        value, slopes = odds_ratio(0.0, rejected, dtype)
        assert float(value) == 0.0
        # -e^A / (1 - e^A) = -1 / (e^-A - 1), the whole slope and not half of it.
        limit = -1.0 / np.expm1(min(-rejected, 700.0))
        np.testing.assert_allclose(slopes.chosen, limit, rtol=1e-5, atol=1e-30)
        assert float(slopes.rejected) == 0.0
    value, slopes = odds_ratio(-1.0, 0.0, dtype)
    np.testing.assert_allclose(
        value, np.log1p(np.expm1(1.0) / np.expm1(1e-6)), rtol=1e-6
    )
    assert float(slopes.rejected) == 0.0


def test_odds_ratio_is_continuous_where_its_forms_meet(x64: None):
    near = [odds_ratio(x, -0.7, jnp.float64) for x in (-1.0, -1.0 - 1e-12)]
    for left, right in zip(*(jax.tree.leaves(n) for n in near), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11)


def test_logarithm_of_one_minus_almost_one(x64: None):
    # The odds ratio loss stands on this function of JAX.
    np.testing.assert_allclose(jax.nn.log1mexp(1e-9), -20.7232658374, rtol=1e-11)
