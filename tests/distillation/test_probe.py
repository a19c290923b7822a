"""Linear probes, checked against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import distillation

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 20)
FEATURES = RNG.standard_normal((20, 4)) + 2.0 * np.eye(4)[LABELS] + 5.0
TEST = RNG.standard_normal((6, 4)) + 5.0


def ridge_scores(rows: np.ndarray, ridge: float) -> np.ndarray:
    """The normal equations of the definition, in float64."""
    x, y = FEATURES[rows], LABELS[rows]
    mean, std = x.mean(0), x.std(0)
    one = lambda z: np.column_stack([(z - mean) / std, np.ones(len(z))])
    a, t = one(x), one(TEST)
    target = np.eye(3)[y] - 1 / 3
    strength = ridge * np.trace(a @ a.T) / len(a)
    return t @ np.linalg.solve(a.T @ a + strength * np.eye(5), a.T @ target)


@pytest.mark.parametrize("count", [20, 12])
def test_scores_are_those_of_the_normal_equations(x64: None, count: int):
    where = np.arange(20) < count
    got = distillation.linear_probe(
        np.where(where[:, None], FEATURES, np.nan),
        LABELS,
        TEST,
        num_classes=3,
        ridge=0.1,
        where=where,
    )
    np.testing.assert_allclose(got, ridge_scores(where, 0.1), rtol=1e-9)


def test_a_constant_feature_says_nothing(x64: None):
    add = lambda x, value: np.column_stack([x, np.full(len(x), value)])
    options = {"num_classes": 3, "ridge": 0.1}
    got = distillation.linear_probe(
        add(FEATURES, 0.1), LABELS, add(TEST, 7.0), **options
    )
    want = distillation.linear_probe(FEATURES, LABELS, TEST, **options)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_label_outside_counts_as_no_class(x64: None):
    labels = np.where(np.arange(20) == 4, 9, LABELS)
    got = distillation.linear_probe(FEATURES, labels, TEST, num_classes=3, ridge=0.1)
    assert bool(jnp.all(jnp.isfinite(got)))


def test_descent_ends_at_the_minimum_of_the_cross_entropy(x64: None):
    x = (FEATURES - FEATURES.mean(0)) / 2.0
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5))
    scores = distillation.sgd_linear_probe(
        jax.random.key(0),
        x,
        LABELS,
        np.concatenate([x, np.zeros((1, 4)), np.eye(4)]),
        num_classes=3,
        optimizer=optimizer,
        num_steps=400,
        batch_size=20 * 64,
    )
    logits, bias = np.asarray(scores[:20]), np.asarray(scores[20])
    weights = np.asarray(scores[21:]) - bias
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    slope = x.T @ (probs - np.eye(3)[LABELS]) / 20 + 0.1 * weights
    # Batches are drawn with replacement, so the end jitters about the minimum.
    assert np.abs(slope).max() < 0.03
    assert np.abs(x.T @ (1 / 3 - np.eye(3)[LABELS]) / 20).max() > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, r"`num_steps` must be at least 1, got 0"),
        ({"batch_size": 0}, r"`batch_size` must be at least 1, got 0"),
        ({"num_classes": 1}, r"`num_classes` must be at least 2, got 1"),
    ],
)
def test_bad_counts_are_refused(changes, message):
    options = {"num_classes": 3, "num_steps": 2, "batch_size": 2, **changes}
    with pytest.raises(ValueError, match=message):
        distillation.sgd_linear_probe(
            jax.random.key(0), FEATURES, LABELS, TEST, **options
        )
