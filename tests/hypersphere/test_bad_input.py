"""What the losses with class weights refuse, and what they forgive."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs

X = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
W = np.array([[1.0, 0.2, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]], np.float32)
CONFIG = hs.MarginConfig.normface(scale=4.0)


def loss(x: Any, w: Any, labels: Any, config: Any = CONFIG, **options: Any) -> Any:
    return hs.hypersphere_loss(x, w, labels, config, **options)


@pytest.mark.parametrize(
    ("x", "w", "labels", "error", "match"),
    [
        (X[0], W, [0, 1], ValueError, r"`embeddings`.*\(batch, dim\), got \(3,\)"),
        (X[None], W, [0, 1], ValueError, r"`embeddings`.*got \(1, 2, 3\)"),
        (X[:, :0], W[:, :0], [0, 1], ValueError, r"`embeddings`.*got \(2, 0\)"),
        (X, W[0], [0, 1], ValueError, r"`class_weights`.*\(2, 3\), got \(3,\)"),
        (X, W.T[:2].T, [0, 1], ValueError, r"`class_weights`.*got \(3, 2\)"),
        (X, W[:0], [0, 1], ValueError, r"`class_weights`.*got \(0, 3\)"),
        (X, W, [0], ValueError, r"`labels` must have shape \(2,\).*got \(1,\)"),
        (X, W, [[0, 1]], ValueError, r"`labels` must have shape \(2,\).*got \(1, 2\)"),
        (X, W, [0.0, 1.0], TypeError, r"`labels`.*integer dtype, got float32"),
        (X, W, [True, False], TypeError, r"`labels`.*integer dtype, got bool"),
        (X.astype(int), W, [0, 1], TypeError, r"`embeddings`.*int"),
        (X, W.astype(complex), [0, 1], TypeError, r"`class_weights`.*complex"),
        (X, W, [0, 3], ValueError, r"`labels`.*\[0, 3\), got 0 to 3"),
        (X, W, [-2, 0], ValueError, r"`labels`.*got -2 to 0"),
    ],
)
def test_arguments(x: Any, w: Any, labels: Any, error: Any, match: str):
    with pytest.raises(error, match=match):
        loss(x, w, np.asarray(labels))


def test_labels_that_are_known_are_checked_inside_of_jit_and_masks_too():
    labels = jnp.asarray([0, 3])
    with pytest.raises(ValueError, match=r"`labels` must be -1 or lie in \[0, 3\)"):
        jax.jit(lambda x: loss(x, W, labels))(X)
    with pytest.raises(ValueError, match=r"`labels` must be -1 or lie in \[0, 3\)"):
        loss(X, W, labels, where=jnp.asarray([True, False]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32])
def test_labels_of_any_integer_dtype(dtype: Any):
    w = np.concatenate([W] * 50)
    labels = np.array([0, 100], dtype)
    got = jax.jit(loss)(X, w, labels)
    want = loss(X, w, labels.astype(np.int32))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("config", "numbers", "match"),
    [
        (hs.SFaceConfig, {"scale": 0.0}, "`scale` must be positive"),
        (hs.SFaceConfig, {"intra_sharpness": -1.0}, "`intra_sharpness` must be posit"),
        (hs.SFaceConfig, {"inter_angle": 3.2}, r"`inter_angle` must lie in \(0, 3.14"),
        (hs.SFaceConfig, {"intra_angle": 0.0}, r"`intra_angle` must lie in \(0, 3.14"),
        (hs.SFaceConfig, {"form": "hard"}, "`form` must be one of 'gated'"),
        (
            hs.MarginConfig,
            {"angle_margin": 1.58},
            r"`angle_margin` must lie in \[0, 1.57",
        ),
        (hs.MarginConfig, {"angle_margin": -0.1}, "`angle_margin` must lie in"),
        (
            hs.MarginConfig,
            {"cosine_margin": -0.1},
            "`cosine_margin` must be at least 0",
        ),
        (hs.MarginConfig, {"label_smoothing": 1.0}, r"`label_smoothing`.*\[0, 1\)"),
        (
            hs.MarginConfig,
            {"angle_factor": 0.5, "boundary": "clip"},
            "`angle_factor` must be at least 1",
        ),
        (hs.MarginConfig, {"angle_factor": 2.0}, "`boundary` must be 'clip' or 'none'"),
        (hs.SphereFaceConfig, {"margin": 0.5}, "`margin` must be at least 1"),
        (
            hs.SphereFace2Config,
            {"positive_weight": 1.0},
            r"`positive_weight`.*\(0, 1\)",
        ),
        (hs.AdaFaceConfig, {"eps": 0.0}, r"`eps` must lie in \(0, 1\)"),
        (hs.MagFaceConfig, {"max_norm": 5.0}, "`max_norm` must be above 10.0"),
        (hs.ElasticFaceConfig, {"margin_std": -1.0}, "`margin_std` must be at least 0"),
        (hs.ElasticFaceConfig, {"on": "sine"}, "`on` must be one of"),
        (hs.CircleClassConfig, {"margin": -1.0}, "`margin` must be at least 0"),
        (hs.DSoftmaxConfig, {"target": 2.0}, r"`target` must lie in \[-1, 1\]"),
    ],
)
def test_numbers_of_configurations(config: Any, numbers: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        config(**numbers)


def test_whole_numbers_are_checked_when_a_loss_is_computed():
    # While a tree is rebuilt, an integer may be the number of an axis.
    with pytest.raises(ValueError, match="`scale` must be positive, got -1"):
        loss(X, W, np.array([0, 1]), hs.MarginConfig(scale=-1))


def test_losses_that_need_more():
    labels = np.array([0, 1])
    with pytest.raises(TypeError, match=r"`key` must be a typed key.*got None"):
        loss(X, W, labels, hs.ElasticFaceConfig())
    with pytest.raises(ValueError, match="at least 3 classes for AdaCos, got 2"):
        loss(X, W[:2], labels, hs.AdaCosConfig())
    with pytest.raises(ValueError, match="`num_classes` must be at least 2, got 1"):
        loss(X, W[:1], labels * 0, hs.SphereFace2Config())


@pytest.mark.slow
def test_the_push_may_start_before_the_pull_ends():
    config = hs.SFaceConfig(intra_angle=1.3, inter_angle=1.2)
    assert np.all(np.isfinite(loss(X, W, np.array([0, 1]), config)))


def test_nan_in_a_sample_that_counts_is_not_hidden():
    x = X.copy()
    x[1] = np.nan
    values = loss(x, W, np.array([0, 1]))
    assert np.isfinite(values[0])
    assert np.isnan(values[1])


@pytest.mark.slow
def test_hessian_products_are_finite_at_the_poles():
    x = jnp.asarray([[1.0, 0, 0], [-1.0, 0, 0], [0.0, 0, 0]])
    w, labels = jnp.asarray([[1.0, 0, 0], [-2.0, 0, 0], [0, 0, 0]]), np.array([0, 0, 1])
    for form in ("potential", "cosine"):
        config = hs.SFaceConfig(form=form)
        gradient = jax.grad(lambda x, c=config: jnp.sum(loss(x, w, labels, c)))
        _, product = jax.jvp(gradient, (x,), (jnp.ones_like(x),))
        assert np.all(np.isfinite(product)), form
