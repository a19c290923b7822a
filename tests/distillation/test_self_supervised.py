"""Self-supervised losses against numbers worked out by hand and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation

FIRST = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]])
SECOND = np.array([[2.0, 1.0], [4.0, 0.0], [3.0, 5.0]])


def barlow(z1, z2, weight=0.0051, eps=1e-5):
    standard = [(z - z.mean(0)) / np.sqrt(z.var(0) + eps) for z in (z1, z2)]
    c = standard[0].T @ standard[1] / len(z1)
    on = ((np.diag(c) - 1) ** 2).sum()
    return on + weight * ((c - np.diag(np.diag(c))) ** 2).sum()


def vicreg(z1, z2, weights=(25.0, 25.0, 1.0), eps=1e-4):
    loss = weights[0] * ((z1 - z2) ** 2).mean()
    for z in (z1, z2):
        c = np.cov(z.T)
        loss += weights[1] * np.maximum(1 - np.sqrt(np.diag(c) + eps), 0).mean() / 2
        loss += weights[2] * ((c - np.diag(np.diag(c))) ** 2).sum() / z.shape[1]
    return loss


def test_barlow_twins_by_hand(x64: None):
    loss = distillation.barlow_twins_loss
    np.testing.assert_allclose(loss(FIRST, SECOND, eps=0.0), 0.0051 / 14, rtol=1e-12)
    np.testing.assert_allclose(loss(FIRST, SECOND), 3.642796990681665e-4, rtol=1e-12)


def test_vicreg_by_hand(x64: None):
    loss = distillation.vicreg_loss
    np.testing.assert_allclose(loss(FIRST, SECOND), 25.5, rtol=1e-14)
    small = FIRST / 4, SECOND / 4
    np.testing.assert_allclose(loss(*small), 15.168036419930186, rtol=1e-14)
    names = ("invariance_weight", "variance_weight", "covariance_weight")
    terms = (0.0625, 0.5441433317972074, 0.001953125)
    for name, want in zip(names, terms, strict=True):
        only = {other: float(other == name) for other in names}
        np.testing.assert_allclose(loss(*small, **only), want, rtol=1e-14)


def test_ntxent_by_hand(x64: None):
    first, second = jnp.eye(2), jnp.array([[1.0, 1.0], [-1.0, 1.0]])
    got = distillation.ntxent_loss(first, second)
    assert got.shape == (2,)
    np.testing.assert_allclose(got.mean(), 0.5359693517993647, rtol=1e-14)


def test_ntxent_equals_the_cross_entropy_of_all_views(x64: None):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 5, 3))
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    logits = z @ z.T / 0.2
    np.fill_diagonal(logits, -np.inf)
    partner = np.roll(np.arange(10), 5)
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(10), partner]
    got = distillation.ntxent_loss(first, second, temperature=0.2)
    np.testing.assert_allclose(got, each.reshape(2, 5).mean(0), rtol=1e-12)


def test_masked_examples_are_no_negatives(x64: None):
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 5, 3))
    mask = np.array([True, True, False, True, False])
    got = distillation.ntxent_loss(first, second, where=mask)
    kept = distillation.ntxent_loss(first[mask], second[mask])
    np.testing.assert_allclose(got[mask], kept, rtol=1e-12)
    np.testing.assert_array_equal(got[~mask], 0.0)


@pytest.mark.parametrize(
    ("function", "formula"),
    [(distillation.barlow_twins_loss, barlow), (distillation.vicreg_loss, vicreg)],
)
def test_masks_and_devices(x64: None, function, formula):
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, 8, 3))
    mask = np.array([True] * 5 + [False] * 3)

    @jax.jit
    def run(first):
        one = lambda a, m: function(a, second, where=m)
        # One example on each of eight devices: the statistics are those of all.
        eight = lambda a, m: jnp.mean(
            jax.vmap(
                lambda a, b, m: function(
                    a[None], b[None], axis_name="batch", where=m[None]
                ),
                axis_name="batch",
            )(a, second, m)
        )
        return [jax.value_and_grad(loss)(first, mask) for loss in (one, eight)]

    (value, gradient), (mapped_value, mapped_gradient) = run(first)
    want = formula(first[:5], second[:5])
    np.testing.assert_allclose([value, mapped_value], want, rtol=1e-12)
    np.testing.assert_allclose(mapped_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "function", [distillation.barlow_twins_loss, distillation.vicreg_loss]
)
def test_a_common_offset_costs_no_digits(function):
    rng = np.random.default_rng(2)
    first, second = rng.integers(-8, 8, (2, 16, 3)) / 8
    near = function(first.astype(np.float32), second.astype(np.float32))
    far = function((first + 512).astype(np.float32), (second + 512).astype(np.float32))
    np.testing.assert_allclose(far, near, rtol=1e-4)
