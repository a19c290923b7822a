"""Losses that must agree, sizes at the edge, and random margins."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs
from tests.hypersphere._reference import softplus, spread_problem

M = hs.MarginConfig


@functools.cache
def values() -> dict[str, np.ndarray]:
    """Computes in one program whatever must agree with something else."""
    x, w, labels = (jnp.asarray(part) for part in spread_problem())
    sharp = {"intra_sharpness": 1e4, "inter_sharpness": 1e4}
    configs: dict[str, Any] = {
        "normface": M.normface(scale=8.0),
        "arcface": M.arcface(scale=8.0),
        "arcface_0": M.arcface(scale=8.0, margin=0.0),
        "arcface_clip": M(scale=8.0, angle_margin=0.5, boundary="clip"),
        "cosface": M.cosface(scale=8.0, margin=0.4),
        "cosface_0": M.cosface(scale=8.0, margin=0.0),
        "combined_arcface": M(
            scale=8.0, angle_factor=1.0, angle_margin=0.5, boundary="clip"
        ),
        "combined_cosface": M(
            scale=8.0, angle_factor=1.0, cosine_margin=0.4, boundary="none"
        ),
        "smoothed_0": M(scale=8.0, label_smoothing=0.0),
        "sphereface_1": hs.SphereFaceConfig(scale=8.0, margin=1.0, annealing=0.0),
        "adaface_0": hs.AdaFaceConfig(scale=8.0, concentration=0.0, eps=1e-9),
        "hinge": hs.SFaceConfig(form="potential", **sharp),
        "sharp_twin": hs.SFaceConfig(form="cosine", **sharp),
        "open": hs.SFaceConfig(
            intra_angle=1e-6, inter_angle=np.pi - 1e-6, **sharp, scale=2.0
        ),
    }

    def program(x: Any, w: Any, labels: Any) -> dict[str, Any]:
        out = {
            name: hs.hypersphere_loss(x, w, labels, config)
            for name, config in configs.items()
        }
        centers = hs.subcenter_arcface_loss
        out["subcenter_1"] = centers(x, w[:, None], labels, scale=8.0)
        # One class; one dimension; one sample of everything.
        one = jnp.zeros(len(labels), labels.dtype)
        for name in ("normface", "arcface", "hinge"):
            out[f"{name}_one"] = hs.hypersphere_loss(x, w[:1], one, configs[name])
            line = hs.hypersphere_loss(x[:, :1], w[:, :1], labels, configs[name])
            out[f"{name}_line"] = line
        alone = lambda x: jnp.sum(
            hs.hypersphere_loss(x, w[:1], one, configs["arcface"])
        )
        out["gradient_one"] = jax.grad(alone)(x)
        single = hs.hypersphere_loss(x[:1], w, labels[:1], configs["arcface"])
        return out | {"single": single}

    return jax.tree.map(np.asarray, jax.jit(program)(x, w, labels))


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("arcface_0", "normface"),
        ("cosface_0", "normface"),
        ("sphereface_1", "normface"),
        ("smoothed_0", "normface"),
        ("combined_arcface", "arcface_clip"),
        ("combined_cosface", "cosface"),
        ("adaface_0", "cosface"),
        ("subcenter_1", "arcface"),
    ],
)
def test_special_cases_agree(one: str, other: str):
    np.testing.assert_allclose(values()[one], values()[other], rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
def test_sharp_gates_become_a_hinge():
    x, w, labels = spread_problem()
    cosines = (x / np.linalg.norm(x, axis=1)[:, None]) @ (
        w / np.linalg.norm(w, axis=1)[:, None]
    ).T
    own = cosines[np.arange(len(x)), labels]
    push = np.maximum(0.0, cosines - np.cos(1.23))
    push[np.arange(len(x)), labels] = 0
    want = 64 * (np.maximum(0.0, np.cos(0.8) - own) + push.sum(axis=1))
    np.testing.assert_allclose(values()["hinge"], want, atol=2e-2)
    np.testing.assert_allclose(values()["sharp_twin"], want, atol=2e-2)
    # With open gates SFace is linear in the cosines.
    others = cosines.sum(axis=1) - own
    np.testing.assert_allclose(values()["open"], 2 * (others - own), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
def test_sizes_at_the_edge():
    out = values()
    np.testing.assert_array_equal(out["normface_one"], 0.0)
    np.testing.assert_array_equal(out["arcface_one"], 0.0)
    np.testing.assert_array_equal(out["gradient_one"], 0.0)
    np.testing.assert_allclose(out["single"][0], out["arcface"][0], rtol=1e-12)
    for name in ("normface", "arcface", "hinge"):
        assert np.all(np.isfinite(out[f"{name}_line"]))


def test_small_losses_keep_their_digits():
    # The difference of log-sum-exp and own logit would be 0 or a multiple of 4e-6.
    x, w = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[1.0, 0.0], [0.8, 0.6]])
    loss = hs.normface_loss(x, w, np.array([0]), scale=80.0)
    np.testing.assert_allclose(loss, softplus(-16.0), rtol=1e-5)
    far = hs.normface_loss(-x, w, np.array([0]), scale=800.0)
    np.testing.assert_allclose(far, 160.0, rtol=1e-5)


def margins(key: jax.Array, x: Any, labels: Any, **options: Any) -> np.ndarray:
    """Reads the drawn margins off the losses of two classes at a right angle."""
    loss = hs.elasticface_loss(
        key, x, jnp.eye(2), labels, scale=1.0, on="cosine", margin=0.35, **options
    )
    own, other = np.asarray(x)[labels >= 0].T
    return own - (other - np.log(np.expm1(np.asarray(loss)[labels >= 0])))


@pytest.mark.slow
def test_elastic_margins_are_normal_and_ranked_ones_follow_the_cosine():
    angles = np.random.default_rng(0).uniform(0.2, 1.3, 2000)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    labels = np.zeros(2000, int)
    labels[::2] = -1
    drawn = margins(jax.random.key(0), jnp.asarray(x), labels)
    assert abs(np.mean(drawn) - 0.35) < 4 * 0.05 / 1000**0.5
    assert abs(np.std(drawn) - 0.05) < 4 * 0.05 / 2000**0.5
    ranked = margins(jax.random.key(0), jnp.asarray(x), labels, ranked=True)
    np.testing.assert_allclose(np.sort(ranked), np.sort(drawn), atol=1e-4)
    # The closest sample has the smallest margin.
    order = np.argsort(angles[1::2])
    assert np.all(np.diff(ranked[order]) > -1e-4)


@pytest.mark.slow
def test_configurations_can_be_mapped_over():
    x, w, labels = (np.asarray(p, np.float32) for p in spread_problem())
    labels = labels.astype(int)
    scales = jnp.asarray([4.0, 8.0], jnp.float32)
    many = jax.vmap(lambda s: hs.hypersphere_loss(x, w, labels, M.arcface(scale=s)))
    for scale, got in zip((4.0, 8.0), many(scales), strict=True):
        want = hs.arcface_loss(x, w, labels, scale=scale)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    # The structure of the configuration itself may hold axes, even 0.
    axes = hs.MarginConfig(scale=0, angle_margin=None, cosine_margin=None)
    config = M(scale=scales, angle_margin=0.5)
    mapped = jax.vmap(lambda c: hs.hypersphere_loss(x, w, labels, c), in_axes=(axes,))(
        config
    )
    np.testing.assert_allclose(mapped, many(scales), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize(
    "config",
    [
        M(scale=8.0, angle_margin=0.5, cosine_margin=0.1, label_smoothing=0.1),
        hs.SFaceConfig(
            form="potential",
            scale=8.0,
            intra_sharpness=10.0,
            inter_sharpness=8.0,
            intra_angle=0.8,
            inter_angle=1.4,
        ),
    ],
)
def test_hyper_parameters_have_gradients(config: Any):
    x, w, labels = (jnp.asarray(part) for part in spread_problem())
    config = jax.tree.map(jnp.asarray, config)
    total = jax.jit(lambda c: jnp.sum(hs.hypersphere_loss(x, w, labels, c)))
    gradient, treedef = jax.tree.flatten(jax.grad(total)(config))
    leaves, h = jax.tree.leaves(config), 1e-5
    for i, got in enumerate(gradient):
        ends = [
            total(treedef.unflatten([v + d * (j == i) for j, v in enumerate(leaves)]))
            for d in (h, -h)
        ]
        difference = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(got, difference, rtol=1e-5, atol=1e-6)
