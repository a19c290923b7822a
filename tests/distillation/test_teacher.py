"""Views, their loss, and a teacher that is frozen afterwards."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import distillation
from tests.distillation._tiny import NETWORK, data

pytestmark = pytest.mark.usefixtures("quick_compile")

IMAGES, _ = data(9, seed=4)
PARTS = {
    "encoder": NETWORK,
    "head": NETWORK._replace(
        init=lambda key: (2.0 * jnp.eye(2), {"count": jnp.zeros(())}),
        apply=lambda params, stats, x, train: (
            x @ params,
            {"count": stats["count"] + float(train)},
        ),
    ),
    "optimizer": optax.adam(1e-2),
}


def noise(key: jax.Array, images: jax.Array) -> jax.Array:
    return images + 0.1 * jax.random.normal(key, images.shape)


def start() -> distillation.TeacherState:
    return distillation.init_teacher(jax.random.key(0), **PARTS)


def train(state: Any, num_steps: int, **changes: Any) -> Any:
    usual = {"augment": noise, "batch_size": 4, **PARTS}
    return distillation.train_teacher(
        state, IMAGES, num_steps=num_steps, **{**usual, **changes}
    )


def test_training_in_pieces_is_training_in_one():
    whole, losses = train(start(), 5)
    half, early = train(start(), 2)
    end, late = train(half, 3)
    chex.assert_trees_all_equal(end.params, whole.params)
    np.testing.assert_array_equal(jnp.concatenate([early, late]), losses)
    # Two views move the statistics in every step.
    assert end.batch_stats[1]["count"] == 10
    assert np.any(end.batch_stats[0]["mean"] != 0)
    assert end.step == 5


@pytest.mark.slow
def test_the_loss_sees_two_different_views_in_training_mode():
    seen: list[Any] = []

    def record(first: jax.Array, second: jax.Array) -> jax.Array:
        seen.extend([first, second])
        return jnp.sum(jnp.square(first - second), axis=1)

    state = start()
    _, loss = distillation.teacher_step(
        state, IMAGES, augment=lambda key, x: x, loss_fn=record, **PARTS
    )
    assert loss == 0
    _, loss = distillation.teacher_step(
        state, IMAGES, augment=noise, loss_fn=record, **PARTS
    )
    assert loss > 0


def test_a_frozen_teacher_uses_its_running_statistics():
    state, _ = train(start(), 3)
    target_fn = distillation.make_target_fn(state, encoder=NETWORK)
    whole = target_fn(IMAGES)
    expected, _ = NETWORK.apply(state.params[0], state.batch_stats[0], IMAGES, False)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_allclose(target_fn(IMAGES[:1]), whole[:1], rtol=1e-5)
    assert not np.any(jax.grad(lambda x: jnp.sum(target_fn(x)))(IMAGES))


def test_bad_calls_are_refused():
    state = start()
    with pytest.raises(ValueError, match=r"`images`.*at least 2, got \(1, 2, 2, 1\)"):
        distillation.teacher_step(state, IMAGES[:1], **PARTS)
    with pytest.raises(TypeError, match=r"`images`.*int32"):
        distillation.teacher_step(state, IMAGES.astype(jnp.int32), **PARTS)
    with pytest.raises(ValueError, match="at most the 9 images, got 10"):
        train(state, 1, batch_size=10)
    with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
        train(state, 0)
    with pytest.raises(TypeError, match="`key` must be a typed key"):
        distillation.init_teacher(jnp.zeros(2, jnp.uint32), **PARTS)


@functools.cache
def views(count: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).uniform(1, 2, (count, 4, 5, 2))
    images = images.astype(np.float32)
    function = options.pop("function")
    return images, np.asarray(function(jax.random.key(5), images, **options))


def test_crops_are_windows_of_the_padded_image_and_all_are_drawn():
    images, out = views(400, function=distillation.crop_and_flip, padding=1)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.stack(
        [
            padded[:, a : a + 4, b : b + 5][:, :, ::step]
            for a in range(3)
            for b in range(3)
            for step in (1, -1)
        ]
    )
    matches = np.all(windows == out[None], axis=(2, 3, 4))
    assert np.all(matches.sum(0) == 1)
    counts = matches.sum(1)
    # 400 draws of 18 equally likely windows: 22 each.
    assert counts.min() >= 8
    assert counts.max() <= 40


def test_views_change_channels_within_their_range_and_cut_one_square():
    images, out = views(
        200,
        function=distillation.augment_view,
        padding=0,
        flip=False,
        gain=0.2,
        shift=0.1,
        cutout=2,
    )
    hole = np.all(out == 0, axis=3)
    assert np.all(hole.sum((1, 2)) == 4)
    corners = np.array([np.argwhere(h)[0] for h in hole])
    assert np.all(
        [h[a : a + 2, b : b + 2].all() for h, (a, b) in zip(hole, corners, strict=True)]
    )
    assert set(corners[:, 0].tolist()) == {0, 1, 2}
    assert set(corners[:, 1].tolist()) == {0, 1, 2, 3}
    for image, new, gap in zip(images, out, hole, strict=True):
        for channel in range(2):
            x, y = image[~gap][:, channel], new[~gap][:, channel]
            slope, offset = np.polyfit(x, y, 1)
            np.testing.assert_allclose(slope * x + offset, y, atol=1e-5)
            assert abs(slope - 1) <= 0.2 + 1e-4
            assert abs(offset) <= 0.1 + 1e-3
