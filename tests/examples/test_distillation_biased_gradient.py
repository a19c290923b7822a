import dataclasses
from fractions import Fraction

import distillation_biased_gradient as example
import jax.numpy as jnp
import numpy as np
import pytest
from _distillation_data import Data

TINY = example.Config(
    num_synthetic=4, num_real=8, widths=(2,), num_draws=32, num_steps=2, num_seeds=1
)

# By hand: toy, x, draws inside (0: the exact gradient), value.
BY_HAND = (
    ("A", 2.0, 0, Fraction(1)),
    ("A", 2.0, 1, Fraction(3, 2)),
    ("A", 2.0, 2, Fraction(5, 4)),
    ("A", 2.0, 4, Fraction(9, 8)),
    ("B", 1.0, 0, Fraction(-2, 27)),
    ("B", 1.0, 1, Fraction(0)),
    ("B", 0.5, 0, Fraction(-196, 729)),
    ("B", 0.5, 1, Fraction(-18, 125)),
    ("B", 2.0, 0, Fraction(1, 27)),
    ("B", 2.0, 1, Fraction(9, 250)),
)


@pytest.mark.parametrize(("name", "x", "count", "value"), BY_HAND)
def test_toys_have_the_fractions_found_by_hand(x64, name, x, count, value):
    (toy,) = (toy for toy in example.TOYS if toy.name.startswith(name))
    got = example.toy_gradient(toy, x, num_inside=count)
    np.testing.assert_allclose(float(got), float(value), atol=1e-15)


def small_data() -> Data:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((12, 4, 4, 1)), jnp.float32)
    labels = jnp.arange(12, dtype=jnp.int32) % 2
    one = jnp.ones(1)
    return Data(images, labels, images, labels, one, one, 1.0, 2, False)


def test_shifts_and_masks_change_nothing_else():
    images = small_data().images
    all_of = lambda count: jnp.broadcast_to(jnp.arange(count)[:, None], (count, 12))
    moved = example.shifts(images, all_of(9))
    assert moved.shape == (9, *images.shape)
    np.testing.assert_array_equal(moved[4], images)
    np.testing.assert_array_equal(moved[0][:, 1:, 1:], images[:, :-1, :-1])
    masked = np.asarray(example.masks(images, all_of(16)))
    kept = masked == np.asarray(images)
    assert (kept | (masked == 0.0)).all()
    assert 0.3 < kept.mean() < 0.7
    # One mask hides the same pixels of every image.
    assert (kept[:, :1] == kept).all()


@pytest.mark.slow
def test_one_inner_loss_over_all_augmentations_is_the_mean_inner_loss():
    problem = example.make_problem(TINY, small_data(), "shift", 0)
    twice = jnp.concatenate([problem.every, problem.every])
    once = problem.loss(problem.start, problem.every, problem.real)
    again = problem.loss(problem.start, twice, problem.real)
    np.testing.assert_allclose(once, again, rtol=1e-4)


@pytest.mark.experiment
def test_the_bias_on_digits(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    measured = example.main(dataclasses.replace(example.Config(), output=tmp_path))
    for kind in example.AUGMENTATIONS:
        found = [
            measured[f"digits, {kind}/{name}/relative bias"]
            for name in ("one draw", "4 draws inside", "16 draws inside")
        ]
        assert found[0] > 2.0 * found[1] > 4.0 * found[2]
        ends = [measured[f"digits, {kind}/{n}/end"] for n in example.ESTIMATORS]
        one, outside, inside, exact = ends
        assert exact <= inside < outside
        assert inside < one
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "distillation_biased_gradient.json",
        "distillation_biased_gradient.png",
    }
