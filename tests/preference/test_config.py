"""Losses by name: dispatch, mixtures, traced numbers, and what is refused."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit import preference
from jaxkit.preference import LOSS_TYPES, PairLogps, PreferenceConfig, preference_loss

PAIR = PairLogps(*(jnp.array([x, x - 1.0]) for x in (-10.0, -14.0, -11.0, -13.0)))
LENGTHS = {"chosen_lengths": jnp.array([5, 4]), "rejected_lengths": jnp.array([8, 2])}


def test_the_names_are_those_of_configuration_files():
    expected = (
        "sigmoid robust hinge ipo sigmoid_norm exo_pair nca_pair bco_pair sppo_hard "
        "apo_zero apo_down discopop aot aot_unpaired sft cpo simpo alphapo orpo"
    )
    assert list(LOSS_TYPES) == expected.split()


def test_defaults_are_those_of_each_loss():
    run = lambda name: preference_loss(
        PAIR, PreferenceConfig(loss_type=name), **LENGTHS
    )
    np.testing.assert_array_equal(run("sigmoid"), preference.dpo_loss(*PAIR))
    np.testing.assert_array_equal(run("exo_pair"), preference.exo_loss(*PAIR))
    args = (PAIR.chosen, PAIR.rejected, *LENGTHS.values())
    np.testing.assert_array_equal(run("simpo"), preference.simpo_loss(*args))
    np.testing.assert_array_equal(run("orpo"), preference.orpo_loss(*args))


def test_every_number_reaches_its_loss():
    args = (PAIR.chosen, PAIR.rejected, *LENGTHS.values())
    for name, field, expected in (
        ("alphapo", {"alpha": 0.7}, preference.alphapo_loss(*args, alpha=0.7)),
        ("simpo", {"gamma": 0.7}, preference.simpo_loss(*args, gamma=0.7)),
        ("orpo", {"orpo_weight": 0.7}, preference.orpo_loss(*args, weight=0.7)),
        ("discopop", {"tau": 0.7}, preference.discopop_loss(*PAIR, tau=0.7)),
        (
            "bco_pair",
            {"reward_shift": 0.7},
            preference.bco_loss(*PAIR, reward_shift=0.7),
        ),
        (
            "sigmoid",
            {"divergence": "alpha", "divergence_alpha": 0.7},
            preference.dpo_loss(*PAIR, divergence="alpha", divergence_alpha=0.7),
        ),
        (
            "sft",
            {"token_average": True},
            preference.sft_loss(args[0], args[2], token_average=True),
        ),
        (
            "ipo",
            {"length_normalize": False},
            preference.ipo_loss(*PAIR, length_normalize=False),
        ),
        ("aot_unpaired", {}, preference.aot_loss(*PAIR, paired=False)),
    ):
        config = PreferenceConfig(loss_type=name, **field)
        got = preference_loss(PAIR, config, **LENGTHS)
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=name)


def test_a_mixture_is_the_weighted_sum():
    names, weights = ("sigmoid", "bco_pair", "sft"), (0.8, 0.2, 1.0)
    mixture = PreferenceConfig(loss_type=names, weights=weights, beta=0.3)
    got = preference_loss(PAIR, mixture, **LENGTHS)
    parts = [
        preference_loss(PAIR, PreferenceConfig(loss_type=name, beta=0.3), **LENGTHS)
        for name in names
    ]
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    plain = preference_loss(
        PAIR, PreferenceConfig(loss_type=names, beta=0.3), **LENGTHS
    )
    np.testing.assert_allclose(plain, sum(parts), rtol=1e-6)


def test_a_pair_without_reference_serves_losses_without_one():
    bare = PairLogps(PAIR.chosen, PAIR.rejected)
    got = preference_loss(bare, PreferenceConfig(loss_type="cpo"))
    np.testing.assert_array_equal(got, preference.cpo_loss(*bare[:2]))
    slopes = preference.loss_slopes(preference.cpo_loss, bare)
    assert slopes.chosen.shape == (2,)


def test_numbers_are_leaves_and_names_are_not():
    config = PreferenceConfig(
        loss_type=("sigmoid", "sft"), weights=(1.0, 0.5), beta=0.2
    )
    leaves, treedef = jax.tree.flatten(config)
    assert leaves == [1.0, 0.5, 0.2, 0.5]
    assert jax.tree.unflatten(treedef, leaves) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.beta = 0.3


def test_a_schedule_of_traced_numbers_compiles_once():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(config: PreferenceConfig) -> jax.Array:
        return preference_loss(PAIR, config, **LENGTHS)

    names = ("sigmoid", "sft")
    for beta, weight in ((0.1, 1.0), (0.5, 0.2)):
        config = PreferenceConfig(
            loss_type=names,
            weights=(jnp.float32(1.0), jnp.float32(weight)),
            beta=jnp.float32(beta),
        )
        expected = preference.dpo_loss(*PAIR, beta=beta) + weight * preference.sft_loss(
            PAIR.chosen, LENGTHS["chosen_lengths"]
        )
        np.testing.assert_allclose(run(config), expected, rtol=1e-6)
    betas = jnp.array([0.1, 0.5])
    many = jax.vmap(lambda b: preference_loss(PAIR, PreferenceConfig(beta=b)))(betas)
    np.testing.assert_allclose(many[1], preference.dpo_loss(*PAIR, beta=0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        (r"`loss_type` must be one of 'sigmoid'.*got 'dpo'", {"loss_type": "dpo"}),
        (r"`loss_type` must name at least one", {"loss_type": ()}),
        (r"`divergence` must be one of.*got 'kl'", {"divergence": "kl"}),
        (
            r"`divergence` 'js' needs losses of the difference.*got bco_pair, sft",
            {"loss_type": ("sigmoid", "bco_pair", "sft"), "divergence": "js"},
        ),
        (
            r"`weights` must have one entry per loss, got 2 for 1",
            {"weights": (1.0, 1.0)},
        ),
        (r"`beta` must be positive, got 0", {"beta": 0}),
        (r"`beta` must be positive, got -0.1", {"beta": -0.1}),
        (r"`beta` must be positive, got nan", {"beta": float("nan")}),
        (r"`tau` must be positive, got 0", {"loss_type": "discopop", "tau": 0.0}),
        (
            r"`label_smoothing` must lie in \[0, 0.5\] for sigmoid, got -0.1",
            {"label_smoothing": -0.1},
        ),
        (
            r"`label_smoothing` must lie in \[0, 0.5\) for robust, got 0.5",
            {"loss_type": "robust", "label_smoothing": 0.5},
        ),
        (
            r"`label_smoothing` must lie in \(0, 0.5\] for exo_pair, got 0",
            {"loss_type": "exo_pair", "label_smoothing": 0},
        ),
        (
            r"`label_smoothing` must lie in \(0, 0.5\] for sigmoid, exo_pair, got 0",
            {"loss_type": ("sigmoid", "exo_pair"), "label_smoothing": np.float32(0)},
        ),
    ],
)
def test_bad_configurations_are_refused(match: str, options: dict[str, Any]):
    with pytest.raises(ValueError, match=match):
        PreferenceConfig(**options)


def test_a_list_of_names_is_refused():
    with pytest.raises(TypeError, match="`loss_type` must be a string or a tuple"):
        PreferenceConfig(loss_type=["sigmoid"])


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm", "simpo", "alphapo", "orpo"])
def test_missing_lengths_are_refused(name: str):
    with pytest.raises(ValueError, match="`chosen_lengths` is needed"):
        preference_loss(PAIR, PreferenceConfig(loss_type=name))


def checked(config: PreferenceConfig) -> str | None:
    run = checkify.checkify(jax.jit(lambda c: preference_loss(PAIR, c)))
    error, _ = run(config)
    return error.get()


@pytest.mark.parametrize(
    ("name", "field", "value", "match"),
    [
        ("sigmoid", "beta", 0.0, "`beta` must be positive, got 0.0"),
        ("sigmoid", "label_smoothing", 0.6, "`label_smoothing` must lie in [0, 0.5]"),
        ("robust", "label_smoothing", 0.5, "`label_smoothing` must lie in [0, 0.5)"),
        ("exo_pair", "label_smoothing", 0.0, "`label_smoothing` must lie in (0, 0.5]"),
        ("discopop", "tau", -1.0, "`tau` must be positive, got -1.0"),
    ],
)
def test_traced_numbers_are_checked_for_those_who_ask(
    name: str, field: str, value: float, match: str
):
    config = PreferenceConfig(loss_type=name, **{field: jnp.float32(value)})
    assert match in (checked(config) or "")
    fine = PreferenceConfig(loss_type=name, **{field: jnp.float32(0.25)})
    assert checked(fine) is None
    # Without checkify a bad number goes through and shows in the result.
    assert preference_loss(PAIR, config).shape == (2,)
