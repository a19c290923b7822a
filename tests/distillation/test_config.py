"""The settings refuse what makes no sense, and the start may be raw pixels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation
from jaxkit.distillation import DistillConfig

BAD = [
    ({"num_models": 0}, ValueError, "`num_models` must be at least 1, got 0"),
    ({"inner_steps": 1}, ValueError, "`inner_steps` must be at least 2, got 1"),
    ({"inner_steps": 2.0}, TypeError, "`inner_steps` must be an integer, got float"),
    ({"inner_batch_size": 0}, ValueError, "`inner_batch_size` must be at least 1"),
    ({"models_per_step": 11}, ValueError, "at most `num_models`, got 11 and 10"),
    ({"reset": "never"}, ValueError, "`reset` must be one of.*got 'never'"),
    ({"first_ages": "old"}, ValueError, "`first_ages` must be one of"),
    ({"pool_update": "two"}, ValueError, "`pool_update` must be one of"),
    ({"loss": "sum"}, ValueError, "`loss` must be one of"),
    ({"ridge_scale": "sum"}, ValueError, "`ridge_scale` must be one of"),
    ({"method": "lu"}, ValueError, "`method` must be one of"),
    ({"ridge_coef": 0.0}, ValueError, "`ridge_coef` must be positive, got 0"),
    (
        {"learn_images": False, "learn_targets": False},
        ValueError,
        "`learn_images` or `learn_targets` must be True",
    ),
]


@pytest.mark.parametrize(("settings", "error", "match"), BAD)
def test_bad_settings_are_refused(
    settings: dict[str, Any], error: type[Exception], match: str
):
    with pytest.raises(error, match=match):
        DistillConfig(**settings)


def test_numbers_are_leaves_and_choices_are_not():
    leaves = jax.tree.leaves(DistillConfig.rfad())
    assert sorted(leaves) == [1e-6, 0.1, 2.0]
    doubled = jax.tree.map(lambda x: 2 * x, DistillConfig())
    assert doubled.ridge_coef == 2e-6
    assert doubled.reset == "count"


def test_the_family_differs_where_the_papers_do():
    krr_st, frepo = DistillConfig.krr_st(), DistillConfig.frepo()
    assert (krr_st.ridge_scale, krr_st.stop_gradient_ridge, krr_st.bias) == (
        "trace",
        True,
        True,
    )
    assert (frepo.ridge_scale, frepo.stop_gradient_ridge, frepo.bias) == (
        "mean_trace",
        False,
        False,
    )
    assert DistillConfig.rfad(num_models=3).models_per_step == 3
    assert DistillConfig.kip(learn_targets=True).learn_targets
    assert not DistillConfig.kip().learn_targets


def test_a_start_in_raw_pixels_undoes_the_normalization():
    images = np.random.default_rng(0).uniform(size=(2, 3, 3, 2)).astype(np.float32)
    mean, std = np.float32([0.5, 0.4]), np.float32([0.2, 0.3])
    normalized, targets = (images - mean) / std, np.zeros((2, 1), np.float32)
    raw = distillation.init_synthetic(
        normalized, targets, space="raw", mean=mean, std=std
    )
    np.testing.assert_allclose(raw.images, images, rtol=1e-5)
    same = distillation.init_synthetic(normalized, targets)
    np.testing.assert_array_equal(same.images, normalized)
    for change, match in (
        ({"space": "pixels"}, "`space` must be one of"),
        ({"space": "raw", "mean": jnp.ones(3)}, r"`mean` must broadcast.*\(2,\)"),
    ):
        with pytest.raises(ValueError, match=match):
            distillation.init_synthetic(normalized, targets, **change)
