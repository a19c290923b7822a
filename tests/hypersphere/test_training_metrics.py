"""The metrics of training against NumPy, with all cosines in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere
from tests.hypersphere.test_streaming import ARCFACE, CLASSES, SFACE, SMOOTHED, problem


def reference() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of the samples that count, which are others, and the own ones."""
    x, w, labels = problem()
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    counts = labels >= 0
    cos = (unit(x) @ unit(w).T)[counts]
    others = np.arange(CLASSES) != labels[counts][:, None]
    return cos, others, cos[~others]


@pytest.mark.usefixtures("x64", "quick_compile")
def test_metrics_of_sface():
    x, w, labels = (jnp.asarray(part) for part in problem())
    # A perfect first sample, so that accuracy is neither 0 nor 1.
    x = x.at[0].set(w[labels[0]])
    losses, got = hypersphere.loss_with_metrics(x, w, labels, SFACE, class_chunk=4)
    cos, others, own = reference()
    cos[0] = cos[0] * 0 + np.asarray(hypersphere.cosine_similarity_matrix(x[:1], w))[0]
    own[0] = 1.0
    theta = np.arccos(np.clip(cos, -1, 1))
    gate = 64 / (1 + np.exp(10 * (theta - 1.4)))
    pull = 64 / (1 + np.exp(-10 * (np.arccos(own) - 0.8)))
    np.testing.assert_allclose(got.mean_target_cos, own.mean(), rtol=1e-12)
    np.testing.assert_allclose(got.mean_target_angle, np.arccos(own).mean(), rtol=1e-9)
    np.testing.assert_allclose(got.mean_other_cos, cos[others].mean(), rtol=1e-12)
    np.testing.assert_allclose(got.intra, -(pull * own).mean(), rtol=1e-9)
    inter = (gate * cos * others).sum(axis=1).mean()
    np.testing.assert_allclose(got.inter, inter, rtol=1e-9)
    top = own >= np.where(others, cos, -2).max(axis=1)
    assert 0 < top.mean() < 1
    np.testing.assert_allclose(got.accuracy, top.mean())
    active = (gate / 64 >= 1e-6)[others].mean()
    np.testing.assert_allclose(got.active_fraction, active)
    where = labels >= 0
    potential = hypersphere.sface_potential_loss(x, w, labels, config=SFACE)
    np.testing.assert_allclose(got.potential, potential[where].mean(), rtol=1e-9)
    want = hypersphere.sface_loss(x, w, labels, config=SFACE)
    np.testing.assert_allclose(losses, want, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("config", [ARCFACE, SMOOTHED])
def test_active_classes_of_a_softmax_are_the_probable_ones(
    config: hypersphere.MarginConfig,
):
    x, w, labels = (jnp.asarray(part) for part in problem())
    losses, got = hypersphere.loss_with_metrics(
        x, w, labels, config, class_chunk=4, active_eps=1e-3
    )
    cos, others, own = reference()
    logits = 16 * cos
    logits[~others] = 16 * np.cos(np.arccos(own) + 0.5)
    far = np.arccos(own) > np.pi - 0.5
    logits[~others] = np.where(far, 16 * (own - 0.5 * np.sin(0.5)), logits[~others])
    powers = np.exp(logits)
    share = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.active_fraction, (share >= 1e-3)[others].mean())
    np.testing.assert_allclose(got.intra + got.inter, losses[labels >= 0].mean())
    np.testing.assert_allclose(got.potential, losses[labels >= 0].mean())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_metrics_have_no_gradient_and_leave_that_of_the_loss():
    x, w, labels = (jnp.asarray(part, None) for part in problem())
    config = SFACE

    def total(w: jax.Array) -> jax.Array:
        losses, metrics = hypersphere.loss_with_metrics(x, w, labels, config)
        return jnp.sum(losses) + 1e6 * metrics.inter

    plain = lambda w: jnp.sum(hypersphere.streaming_loss(x, w, labels, config))
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(w), jax.jit(jax.grad(plain))(w), rtol=1e-6
    )
