"""Runs are exact when cut in pieces, and go through all images in every epoch."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import distillation
from jaxkit.distillation import DistillConfig
from tests.distillation._tiny import NETWORK, data, parts, start

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = DistillConfig(num_models=2, inner_steps=4, method="cholesky")
IMAGES, TARGETS = data(11, seed=1)


def noise(key: jax.Array, images: jax.Array) -> jax.Array:
    return images + jax.random.normal(key, images.shape, images.dtype)


def teacher(images: jax.Array) -> jax.Array:
    return images[:, 0, :, 0]


def run(state: Any, num_steps: int, **changes: Any) -> tuple[Any, Any]:
    usual = {"targets": TARGETS, "batch_size": 4, **parts(CONFIG)}
    return distillation.run_distillation(
        state, IMAGES, num_steps=num_steps, **{**usual, **changes}
    )


def test_a_run_in_pieces_is_the_run_in_one_and_spares_its_start():
    first = start(CONFIG)
    whole, metrics = run(first, 5)
    half, early = run(first, 2)
    end, late = run(half, 3)
    chex.assert_trees_all_equal(end.synthetic, whole.synthetic)
    chex.assert_trees_all_equal(end.pool, whole.pool)
    np.testing.assert_array_equal(np.concatenate([early.loss, late.loss]), metrics.loss)
    assert metrics.loss.shape == (5,)
    assert not first.synthetic.images.is_deleted()
    assert end.step == 5


@pytest.mark.slow
def test_an_epoch_sees_each_image_once_and_the_next_in_another_order():
    seen: list[np.ndarray] = []

    def watch(key: jax.Array, images: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), images[:, 0, 0, 0])
        return images

    run(start(CONFIG), 4, augment=watch)
    jax.effects_barrier()
    first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    known = set(np.asarray(IMAGES[:, 0, 0, 0]).tolist())
    for epoch in (first, second):
        assert len(set(epoch.tolist())) == 8
        assert set(epoch.tolist()) <= known
    assert np.any(first != second)


@pytest.mark.slow
def test_a_live_teacher_sees_the_augmented_images():
    def check(key: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.zeros_like(images)

    # On black images all targets are 0, whatever the images were.
    _, metrics = run(start(CONFIG), 1, targets=None, target_fn=teacher, augment=check)
    _, zeros = run(start(CONFIG), 1, targets=jnp.zeros_like(TARGETS), augment=check)
    np.testing.assert_allclose(metrics.loss, zeros.loss, rtol=1e-6)
    bank = distillation.make_target_bank(
        jax.random.key(3), teacher, IMAGES, augment=check, num_copies=2
    )
    _, banked = run(start(CONFIG), 1, targets=bank, augment=check)
    np.testing.assert_allclose(banked.loss, zeros.loss, rtol=1e-6)
    _, plain = run(start(CONFIG), 2, targets=None, target_fn=teacher)
    _, looked_up = run(start(CONFIG), 2, targets=teacher(IMAGES))
    np.testing.assert_allclose(plain.loss, looked_up.loss, rtol=1e-5)


def test_targets_are_computed_in_batches_of_any_size():
    got = distillation.precompute_targets(teacher, IMAGES, batch_size=4)
    np.testing.assert_array_equal(got, teacher(IMAGES))


def test_a_bank_draws_its_copies_again():
    bank = distillation.make_target_bank(
        jax.random.key(3), teacher, IMAGES, augment=noise, num_copies=3, batch_size=4
    )
    assert bank.targets.shape == (3, 11, 2)
    draw = jax.jit(
        lambda rows, copies: distillation.bank_images(
            bank, IMAGES, rows, copies, augment=noise
        )
    )
    x, y = draw(jnp.array([7, 2, 7, 7]), jnp.array([0, 0, 2, 0]))
    np.testing.assert_allclose(teacher(x), y, rtol=1e-6)
    np.testing.assert_array_equal(x[0], x[3])
    # Other copies, and other images, have noise of their own.
    noises = np.asarray(x) - np.asarray(IMAGES)[[7, 2, 7, 7]]
    assert np.all(np.abs(noises[0] - noises[2]) > 1e-4)
    assert np.all(np.abs(noises[0] - noises[1]) > 1e-4)


BAD = [
    ({"targets": None}, "Exactly one of `targets` and `target_fn`.*neither"),
    ({"target_fn": teacher}, "Exactly one of `targets` and `target_fn`.*both"),
    ({"targets": TARGETS[:3]}, r"`images` and `targets`.*\(11, 2, 2, 1\) and \(3, 2\)"),
    ({"batch_size": 12}, "`batch_size` must be at most the 11 images, got 12"),
    ({"num_steps": 0}, "`num_steps` must be at least 1"),
    (
        {"targets": distillation.TargetBank(TARGETS[None], jax.random.key(0))},
        "`augment` is needed with a `TargetBank`",
    ),
    (
        {
            "targets": distillation.TargetBank(TARGETS[None, :3], jax.random.key(0)),
            "augment": noise,
        },
        "`bank` and `images` must hold as many images, got 3 and 11",
    ),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_bad_runs_are_refused(change: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        run(_state(), **{"num_steps": 1, **change})


@functools.cache
def _state() -> Any:
    return start(CONFIG)


def test_pretraining_goes_through_the_set_in_every_epoch():
    # Without a hidden layer and with one output the steps are easily repeated.
    linear = NETWORK._replace(
        init=lambda key: (jnp.zeros((4, 2)), {}),
        apply=lambda params, stats, x, train: (
            x.reshape(x.shape[0], -1) @ params,
            stats,
        ),
    )
    pairs = distillation.Synthetic(IMAGES[:5], TARGETS[:5])

    def fit(**options: Any) -> Any:
        usual = {"network": linear, "optimizer": optax.sgd(0.1)}
        return distillation.pretrain(jax.random.key(0), pairs, **{**usual, **options})

    flat, targets = np.asarray(IMAGES[:5]).reshape(5, 4), np.asarray(TARGETS[:5])
    weights = np.zeros((4, 2))
    for _ in range(3):
        weights -= 0.1 * 2 * flat.T @ (flat @ weights - targets) / targets.size
    params, stats = fit(num_steps=3)
    assert stats == {}
    np.testing.assert_allclose(params, weights, rtol=1e-4, atol=1e-6)
    # One epoch of batches of 2, 2 and 1: small steps add up to that of all, weighted.
    small, _ = fit(num_steps=3, batch_size=2, optimizer=optax.sgd(1e-4))
    rows = np.abs(np.asarray(small)).sum()
    assert rows > 0
    each = -1e-4 * 2 * flat[:, :, None] * (0 - targets)[:, None] / 2
    orders = [
        sum(each[i] / (1 if i == last else 2) for i in range(5)) for last in range(5)
    ]
    errors = [np.abs(np.asarray(small) - order).max() for order in orders]
    assert min(errors) < 1e-3 * np.abs(orders[0]).max()
    for bad in ({"num_steps": -1}, {"num_steps": 1, "batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            fit(**bad)
