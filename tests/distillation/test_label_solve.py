"""The best targets: exact numbers, optimality, exact recovery."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import distillation


def test_by_hand(x64: None):
    feat_s, feat_t = (
        np.array([[1.0, 1.0], [2.0, 1.0]]),
        np.array([[3.0, 1.0], [0.0, 1.0]]),
    )
    y_t = np.array([[5.0], [1.0]])
    y_s = distillation.label_solve(feat_s, feat_t, y_t, 1.0)
    np.testing.assert_allclose(y_s, [[3.0], [4.0]], rtol=1e-12)
    predicted = distillation.ridge_predict(feat_s, y_s, feat_t, 1.0)
    np.testing.assert_allclose(predicted, y_t, rtol=1e-12)


def test_no_targets_are_better(x64: None):
    rng = np.random.default_rng(0)
    feat_s, feat_t = rng.standard_normal((4, 6)), rng.standard_normal((9, 6))
    y_t = rng.standard_normal((9, 2))
    y_s = distillation.label_solve(feat_s, feat_t, y_t, 0.3)
    error = lambda y: jnp.sum(
        jnp.square(distillation.ridge_predict(feat_s, y, feat_t, 0.3) - y_t)
    )
    # A convex function without slope: the minimum, which is not 0.
    np.testing.assert_allclose(jax.grad(error)(y_s), 0.0, atol=1e-12)
    kernel = feat_t @ feat_s.T
    best = np.linalg.lstsq(kernel, y_t)[1].sum()
    np.testing.assert_allclose(error(y_s), best, rtol=1e-12)


def test_linear_targets_are_met_on_all_data_for_every_ridge(x64: None):
    rng = np.random.default_rng(1)
    # Three points whose features span the columns of two true weights.
    feat_s, feat_t = rng.standard_normal((3, 6)), rng.standard_normal((40, 6))
    weights = feat_s.T @ rng.standard_normal((3, 2))
    for ridge in (1e-6, 1.0, 100.0):
        y_s = distillation.label_solve(
            feat_s, feat_t[:10], feat_t[:10] @ weights, ridge
        )
        fitted = distillation.krr_fit(feat_s, y_s, ridge)
        np.testing.assert_allclose(fitted, weights, rtol=1e-7)
        np.testing.assert_allclose(feat_t @ fitted, feat_t @ weights, atol=1e-6)


def test_a_repeated_example_shares_its_targets(x64: None):
    # K is singular; of all solutions the one of least norm treats both copies alike.
    rng = np.random.default_rng(2)
    one, feat_t = rng.standard_normal((1, 3)), rng.standard_normal((5, 3))
    y_s = distillation.label_solve(
        np.concatenate([one, one]), feat_t, feat_t @ one.T, 0.5
    )
    np.testing.assert_allclose(y_s[0], y_s[1], rtol=1e-12)
    predicted = distillation.ridge_predict(np.concatenate([one, one]), y_s, feat_t, 0.5)
    np.testing.assert_allclose(predicted, feat_t @ one.T, atol=1e-10)
