"""Sampled classes hold those of the batch, and others with equal chances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere
from jaxkit.ops import masked_mean

LABELS = np.array([7, 2, 2, -1, 19])


def draw(key: jax.Array, labels: jax.Array) -> hypersphere.SampledClasses:
    return hypersphere.sample_classes(key, labels, num_classes=20, num_sampled=8)


def test_classes_of_the_batch_are_there_and_the_others_equally_likely():
    keys = jax.random.split(jax.random.key(0), 2000)
    indices, labels = jax.vmap(draw, (0, None))(keys, jnp.asarray(LABELS))
    indices, labels = np.asarray(indices), np.asarray(labels)
    assert np.all(np.diff(indices, axis=1) > 0)
    found = np.take_along_axis(indices, np.maximum(labels, 0), axis=1)
    known = LABELS >= 0
    assert np.all(found[:, known] == LABELS[known])
    assert np.all(labels[:, ~known] == -1)
    counts = np.bincount(indices.reshape(-1), minlength=20)
    assert np.all(counts[[2, 7, 19]] == 2000)
    others = np.delete(counts, [2, 7, 19])
    # 5 of 17 each, with a standard deviation of 20.
    np.testing.assert_allclose(others, 2000 * 5 / 17, atol=90)


def test_labels_out_of_range_stay_so_and_masked_ones_claim_no_class():
    labels = jnp.array([20, -2, 3, 4, 5])
    drawn = draw(jax.random.key(1), labels)
    assert np.array_equal(drawn.labels[:2], [8, 8])
    where = jnp.array([False, False, True, True, False])
    drawn = hypersphere.sample_classes(
        jax.random.key(1), labels, num_classes=20, num_sampled=20, where=where
    )
    assert np.array_equal(drawn.labels, [-1, -1, 3, 4, -1])


def test_narrow_labels_are_widened():
    labels = jnp.array([200, 3], jnp.uint8)
    drawn = hypersphere.sample_classes(
        jax.random.key(2), labels, num_classes=400, num_sampled=300
    )
    assert np.array_equal(drawn.indices[drawn.labels], [200, 3])
    assert np.all(np.diff(drawn.indices) > 0)
    assert drawn.indices[-1] > 255


@pytest.mark.slow
def test_only_sampled_rows_have_a_gradient():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((20, 3)), jnp.float32)
    labels = jnp.asarray(LABELS)
    drawn = draw(jax.random.key(4), labels)

    def total(w: jax.Array) -> jax.Array:
        config = hypersphere.MarginConfig.normface(scale=4.0)
        values = hypersphere.hypersphere_loss(x, w[drawn.indices], drawn.labels, config)
        return masked_mean(values, where=drawn.labels >= 0)

    rows = np.any(np.asarray(jax.jit(jax.grad(total))(w)), axis=1)
    assert np.array_equal(np.flatnonzero(rows), drawn.indices)
