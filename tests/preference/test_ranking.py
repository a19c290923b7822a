import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import preference


def test_best_and_worst_of_many():
    scores = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    pair = preference.rank_responses(scores)
    np.testing.assert_array_equal(pair.chosen, scores.argmax(-1))
    np.testing.assert_array_equal(pair.rejected, scores.argmin(-1))
    assert pair.valid.all()
    assert pair.chosen.dtype == pair.rejected.dtype == jnp.int32


def test_ties_take_the_first_best_and_the_last_worst():
    scores = jnp.array([[2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [3.0, 3.0, 1.0]])
    pair = preference.rank_responses(scores)
    np.testing.assert_array_equal(pair.chosen, [0, 0, 0])
    np.testing.assert_array_equal(pair.rejected, [2, 2, 2])
    np.testing.assert_array_equal(pair.valid, [False, True, True])


def test_masked_answers_are_never_picked():
    scores = jnp.array([[9.0, 1.0, 2.0, jnp.nan]] * 3)
    where = jnp.array(
        [
            [False, True, True, False],
            [False, True, False, False],
            [False, False, False, False],
        ]
    )
    pair = preference.rank_responses(scores, where=where)
    assert (int(pair.chosen[0]), int(pair.rejected[0])) == (2, 1)
    np.testing.assert_array_equal(pair.valid, [True, False, False])


def test_a_score_that_is_no_number_makes_no_pair():
    pair = preference.rank_responses(jnp.array([[1.0, jnp.nan, 0.0], [1.0, 2.0, 0.0]]))
    np.testing.assert_array_equal(pair.valid, [False, True])


def test_labels_follow_bradley_terry():
    gaps = jnp.array([-1.0, 0.0, 0.5, 2.0])[:, None]
    rewards = jnp.broadcast_to(gaps, (4, 20_000))
    wins = preference.bradley_terry_labels(
        jax.random.key(0), rewards, jnp.zeros_like(rewards), scale=2.0
    )
    expected = 1 / (1 + np.exp(-2.0 * np.asarray(gaps[:, 0])))
    np.testing.assert_allclose(wins.mean(-1), expected, atol=4 * 0.5 / 20_000**0.5)


def test_a_judge_of_scale_0_tosses_a_coin_and_a_sharp_one_never_errs():
    rewards = jnp.broadcast_to(jnp.array([5.0, -5.0])[:, None], (2, 20_000))
    label = lambda scale: preference.bradley_terry_labels(
        jax.random.key(1), rewards, jnp.zeros_like(rewards), scale=scale
    )
    np.testing.assert_allclose(label(0.0).mean(-1), 0.5, atol=0.015)
    np.testing.assert_array_equal(label(1e3).mean(-1), [1.0, 0.0])
