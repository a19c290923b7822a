"""Verification metrics against counting, ties and masks included."""

import importlib.util

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere


def draw(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws scores with many ties, kinds, and which of them count."""
    rng = np.random.default_rng(seed)
    genuine = rng.random(count) < 0.4
    scores = np.round(rng.standard_normal(count) + genuine, 1)
    return scores, genuine, rng.random(count) < 0.8


@jax.jit
def measure(scores, genuine, where, far):
    return (
        hypersphere.roc_curve(scores, genuine, where=where),
        hypersphere.tar_at_far(scores, genuine, far=far, where=where),
        hypersphere.auc(scores, genuine, where=where),
        hypersphere.equal_error_rate(scores, genuine, where=where),
    )


FARS = np.array([0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.99, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_counting(seed, x64):
    scores, genuine, where = draw(seed)
    spoiled = np.where(where, scores, np.nan)
    results = measure(spoiled, genuine, where, FARS)
    chex.assert_trees_all_equal(results, measure(scores, genuine, where, FARS))
    curve, point, area, error = results
    g, h = scores[where & genuine], scores[where & ~genuine]

    wins = np.mean((g[:, None] > h) + 0.5 * (g[:, None] == h))
    np.testing.assert_allclose(area, wins, rtol=1e-12)
    thresholds = np.concatenate([[np.inf], np.sort(scores[where])[::-1]])
    fpr = np.array([np.mean(h >= t) for t in thresholds])
    tpr = np.array([np.mean(g >= t) for t in thresholds])
    number = thresholds.size
    np.testing.assert_array_equal(curve.threshold[:number], thresholds)
    np.testing.assert_allclose(curve.false_accept_rate[:number], fpr, rtol=1e-12)
    np.testing.assert_allclose(curve.true_accept_rate[:number], tpr, rtol=1e-12)
    assert np.all(np.asarray(curve.false_accept_rate[number:]) == 1.0)

    best = np.argmin(np.abs(1 - tpr - fpr))
    np.testing.assert_allclose(error.rate, (1 - tpr[best] + fpr[best]) / 2, rtol=1e-12)
    for i, far in enumerate(FARS):
        allowed = int(np.floor(far * h.size + 1e-9))
        if allowed >= h.size:
            assert point.rate[i] == 1.0
            continue
        threshold = np.sort(h)[::-1][allowed]
        assert point.threshold[i] == threshold
        np.testing.assert_allclose(point.rate[i], np.mean(g > threshold), rtol=1e-12)
        np.testing.assert_allclose(point.rate[i], tpr[fpr <= far].max(), rtol=1e-12)
        assert point.false_accept_rate[i] == np.mean(h > threshold) <= far
        assert point.resolved[i] == (far * h.size >= 1)


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)
def test_metrics_equal_those_of_scikit_learn(x64):
    from sklearn import metrics

    scores, genuine, where = draw(0)
    curve, _, area, _ = measure(scores, genuine, where, FARS)
    kinds, values = genuine[where], scores[where]
    np.testing.assert_allclose(area, metrics.roc_auc_score(kinds, values), rtol=1e-12)
    fpr, tpr, thresholds = metrics.roc_curve(kinds, values, drop_intermediate=False)
    place = {float(t): i for i, t in enumerate(np.asarray(curve.threshold))}
    rows = [place[float(t)] for t in thresholds]
    np.testing.assert_allclose(curve.false_accept_rate[np.array(rows)], fpr, rtol=1e-12)
    np.testing.assert_allclose(curve.true_accept_rate[np.array(rows)], tpr, rtol=1e-12)


def test_products_that_round_down_are_whole_numbers():
    # 0.29 * 100 is 28.999999999999996, and 29 impostors may be accepted.
    scores = np.arange(101.0, dtype=np.float32)
    genuine = scores == 100.0
    point = hypersphere.tar_at_far(scores, genuine, far=0.29)
    np.testing.assert_allclose(point.false_accept_rate, 0.29, rtol=1e-6)
    assert point.threshold == 70.0


@pytest.mark.slow
def test_counts_beyond_the_whole_numbers_of_float32():
    # The two best of 2^24 + 2 impostors differ: none may be accepted.
    scores = jnp.zeros(2**24 + 3, jnp.float32).at[-3:].set(jnp.array([0.5, 1.0, 0.8]))
    genuine = jnp.arange(scores.size) == scores.size - 1
    point = hypersphere.tar_at_far(scores, genuine, far=0.0)
    assert (float(point.threshold), float(point.rate)) == (1.0, 0.0)


@pytest.mark.slow
def test_nan_among_the_scores_that_count_is_not_hidden():
    scores, genuine, _ = draw(0, 20)
    scores[3] = np.nan
    everything = np.ones(20, bool)
    _, point, area, error = measure(scores, genuine, everything, FARS)
    assert np.isnan(area)
    assert np.isnan(error.rate)
    assert np.all(np.isnan(point.rate))


@pytest.mark.slow
def test_metrics_without_impostors_are_undefined():
    scores = np.array([0.1, 0.2])
    _, point, area, error = measure(scores, scores > 0, scores > 0, FARS)
    assert np.isnan(area)
    assert np.isnan(error.rate)
    assert np.all(np.isnan(point.rate))


def test_fold_accuracy_equals_the_search(x64):
    scores, genuine, _ = draw(4, 23)
    got = hypersphere.fold_accuracy(scores, genuine, num_folds=4)
    fold = np.arange(23) * 4 // 23
    candidates = np.concatenate([[np.inf], np.sort(scores)[::-1]])
    for k in range(4):
        rest = fold != k
        right = [np.sum((scores >= t)[rest] == genuine[rest]) for t in candidates]
        threshold = candidates[np.argmax(right)]
        accuracy = np.mean((scores >= threshold)[~rest] == genuine[~rest])
        assert got.threshold[k] == threshold
        np.testing.assert_allclose(got.accuracy[k], accuracy, rtol=1e-12)


def test_rank_one_looks_at_others_that_count():
    x = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [jnp.nan, 0.0]])
    labels = jnp.array([0, 0, 1, 0, -1])
    # Nearest: 1, 0, 3, 2 of classes 0, 0, 0, 1.
    assert hypersphere.rank1_accuracy(x, labels) == 0.5
    where = jnp.array([True, True, True, False, True])
    np.testing.assert_allclose(
        hypersphere.rank1_accuracy(x, labels, where=where), 2 / 3, rtol=1e-6
    )


def test_one_shot_by_hand():
    probes = jnp.array([[2.0, 0.1], [0.1, 3.0], [jnp.nan, 0.0]])
    where = jnp.array([True, True, False])
    got = hypersphere.one_shot_accuracy(
        probes, jnp.eye(2), jnp.array([0, 0, 1]), where=where
    )
    assert got == 0.5


def test_open_set_identification_equals_counting(x64):
    rng = np.random.default_rng(5)
    scores = np.round(rng.random((40, 6)), 1)
    gallery = np.array([0, 1, 2, 3, 0, -1])
    probes = rng.integers(-1, 7, 40)
    where = rng.random(40) < 0.9
    spoiled = np.where(where[:, None], scores, np.nan)
    fpir = jnp.array([0.0, 0.1, 0.3, 1.0])
    got = hypersphere.open_set_dir(spoiled, probes, gallery, fpir=fpir, where=where)
    known = np.isin(probes, gallery[gallery >= 0]) & where
    strangers = where & ~known
    match = np.argmax(scores[:, :5], axis=1)
    best = scores[:, :5].max(axis=1)
    right = gallery[match] == probes
    for i, rate in enumerate(np.asarray(fpir)):
        allowed = int(np.floor(rate * strangers.sum() + 1e-9))
        ranked = np.sort(best[strangers])[::-1]
        threshold = ranked[allowed] if allowed < ranked.size else -np.inf
        want = np.mean((right & (best > threshold))[known])
        np.testing.assert_allclose(got.rate[i], want, rtol=1e-12)
        assert got.threshold[i] == threshold
        assert got.false_positive_rate[i] == np.mean(best[strangers] > threshold)
