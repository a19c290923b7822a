"""Streaming over classes gives the numbers of all classes at once."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere
from jaxkit.ops import masked_mean, masked_sum
from tests.hypersphere._reference import CASES, spread_problem

BATCH, DIM, CLASSES = 6, 4, 11
SFACE = hypersphere.SFaceConfig.small_scale()
ARCFACE = hypersphere.MarginConfig.arcface(scale=16.0)
SMOOTHED = dataclasses.replace(ARCFACE, label_smoothing=0.1)
CONFIGS = {"sface": SFACE, "arcface": ARCFACE, "smoothed": SMOOTHED}
WEIGHTS = {
    "mean": np.full(BATCH, 1 / (BATCH - 1)),
    "scaled": np.full(BATCH, -2.0),
    "weighted": np.arange(1.0, BATCH + 1),
    "some": np.array([0.2, 0, 0, 0.2, 0, 0]),
}


@functools.cache
def problem() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, BATCH)
    labels[1] = -1
    embeddings = 3 * rng.standard_normal((BATCH, DIM))
    return embeddings, rng.standard_normal((CLASSES, DIM)), labels


def slopes(loss: Any, config: Any, weights: jax.Array, **kwargs: Any) -> Any:
    """The gradients of a weighted sum of losses, and the losses."""
    x, w, labels = (jnp.asarray(part) for part in problem())

    def total(x: jax.Array, w: jax.Array, config: Any) -> Any:
        values = loss(x, w, labels, config, **kwargs)
        return jnp.sum(values * weights), values

    return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, w, config)


def assert_same(got: Any, want: Any, tol: float = 1e-11) -> None:
    got, want = (jax.tree.map(np.asarray, tree) for tree in (got, want))
    chex.assert_trees_all_close(got, want, rtol=tol, atol=tol)


def check_chunk(name: str, chunk: int) -> None:
    """One program for all reductions; the hyper-parameters have gradients too."""

    @jax.jit
    def both(weights: jax.Array) -> tuple[Any, Any]:
        config = CONFIGS[name]
        return (
            slopes(hypersphere.streaming_loss, config, weights, class_chunk=chunk),
            slopes(hypersphere.hypersphere_loss, config, weights),
        )

    for weights in WEIGHTS.values():
        assert_same(*both(jnp.asarray(weights)))


@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("name", ["sface", "smoothed"])
def test_slices_that_do_not_fit_equal_all_classes_at_once(name: str):
    check_chunk(name, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("name", ["sface", "arcface"])
@pytest.mark.parametrize("chunk", [1, 7, CLASSES, CLASSES + 1])
def test_every_slice_equals_all_classes_at_once(name: str, chunk: int):
    check_chunk(name, chunk)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("by_hand", [True, False])
def test_every_loss_streams(by_hand: bool):
    x, w, labels = (jnp.asarray(part) for part in spread_problem())

    def one(loss: Any, name: str, x: Any, w: Any, **kwargs: Any) -> Any:
        case = CASES[name]
        values = loss(x, w, labels, case.config, state=case.state, **kwargs)
        return masked_mean(values), values

    def all_losses(loss: Any, **kwargs: Any) -> Any:
        slope = jax.value_and_grad(
            functools.partial(one, loss, **kwargs), argnums=(1, 2), has_aux=True
        )
        # One loss of each kind, and one whose terms have slopes, stand for the others.
        names = CASES if by_hand else ("sface_potential", "smoothed", "magface")
        return jax.jit(lambda x, w: {name: slope(name, x, w) for name in names})(x, w)

    options = {"class_chunk": 2, "all_derivatives": not by_hand}
    assert_same(
        all_losses(hypersphere.streaming_loss, **options),
        all_losses(hypersphere.hypersphere_loss),
        tol=1e-10,
    )


@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("name", ["sface", "arcface"])
def test_inactive_classes_are_left_out_within_the_bound(name: str):
    config = CONFIGS[name]
    if name == "sface":
        # Sharp gates: slices of 4 classes have from 0 to 4 active ones.
        config = dataclasses.replace(config, inter_sharpness=80.0, inter_angle=1.0)
    weights = jnp.asarray(WEIGHTS["weighted"])

    @jax.jit
    def run(eps: jax.Array) -> Any:
        sizes = {"class_chunk": 4, "active_limit": 2, "active_eps": eps}
        return slopes(hypersphere.streaming_loss, config, weights, **sizes)

    exact = slopes(hypersphere.hypersphere_loss, config, weights)
    assert_same(run(jnp.asarray(0.0)), exact)
    assert_same(run(jnp.asarray(1e-13)), exact, tol=1e-9)
    ((_, dw, _), _), ((_, want, _), _) = run(jnp.asarray(1e-2)), exact
    error = np.max(np.abs(dw - want)) / np.max(np.abs(want))
    # Something is left out, and what is left out is bounded.
    assert 1e-12 < error < 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
def test_a_dominated_slice_has_no_active_class():
    # All other classes lie opposite: their rows get a gradient of exactly 0.
    w = jnp.asarray(np.vstack([np.eye(1, 3), -np.eye(7, 3, -1) - np.eye(1, 3)]))
    labels = jnp.zeros(1, int)

    def total(w: jax.Array, limit: int) -> jax.Array:
        return hypersphere.streaming_loss(
            jnp.ones((1, 3)) * w[:1] + 0.1,
            w,
            labels,
            hypersphere.SFaceConfig(),
            class_chunk=4,
            active_limit=limit,
        )[0]

    dw = jax.jit(jax.grad(total), static_argnums=1)(w, 1)
    assert not np.any(dw[1:])
    np.testing.assert_allclose(dw, jax.grad(total)(w, 0), atol=1e-12)


@pytest.mark.parametrize(
    "name", ["sface", pytest.param("arcface", marks=pytest.mark.slow)]
)
def test_memory_does_not_depend_on_the_number_of_classes(name: str):
    batch, dim, chunk = 64, 32, 512

    def total(x: jax.Array, w: jax.Array, labels: jax.Array) -> jax.Array:
        values = hypersphere.streaming_loss(
            x, w, labels, CONFIGS[name], class_chunk=chunk, active_limit=64
        )
        return masked_mean(values, where=labels >= 0)

    def temporaries(classes: int) -> int:
        shapes = ((batch, dim), (classes, dim))
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        arrays.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
        program = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*arrays)
        return program.compile().memory_analysis().temp_size_in_bytes

    many = temporaries(1_000_000)
    assert many <= 4 * chunk * (batch + dim) * 4 + 32 * batch * dim * 4
    if name == "arcface":
        assert many <= 1.1 * temporaries(100_000)


@pytest.mark.usefixtures("x64", "quick_compile")
def test_an_unknown_label_gives_nan_and_trains_no_class():
    x, w, _ = (jnp.asarray(part) for part in problem())

    @jax.jit
    def run(labels: jax.Array, where: jax.Array) -> Any:
        def total(x: jax.Array, w: jax.Array) -> Any:
            values = hypersphere.streaming_loss(
                x, w, labels, SFACE, class_chunk=4, where=where
            )
            return masked_sum(values, where=jnp.isfinite(values)), values

        return jax.grad(total, argnums=(0, 1), has_aux=True)(x, w)

    everyone = jnp.ones(BATCH, bool)
    labels = jnp.array([CLASSES, 3, -2, 5, 6, 7])
    (dx, dw), values = run(labels, everyone)
    assert np.array_equal(np.isnan(values), [True, False, True, False, False, False])
    assert not np.any(dx[np.array([0, 2])])
    known = jnp.array([False, True, False, True, True, True])
    (_, dw_known), _ = run(jnp.where(known, labels, 0), known)
    np.testing.assert_allclose(dw, dw_known, atol=1e-12)


@pytest.mark.usefixtures("quick_compile")
def test_poles_zeros_and_extreme_lengths_are_finite():
    @jax.jit
    def run(x: jax.Array, w: jax.Array) -> Any:
        def total(x: jax.Array, w: jax.Array, config: Any) -> jax.Array:
            labels = jnp.array([0, 4])
            sizes = {"class_chunk": 2, "active_limit": 1}
            return jnp.sum(hypersphere.streaming_loss(x, w, labels, config, **sizes))

        slope = jax.value_and_grad(total, argnums=(0, 1))
        return slope(x, w, SFACE), slope(x, w, ARCFACE)

    rows = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [-1.0, 0, 0]])
    lengths = np.array([1e-15, 1, 1, 1e15, 1])[:, None]
    with jax.debug_nans(True):
        for x, w in (
            (np.eye(3)[[0, 0]], rows),
            (np.array([[0.0, 0, 0], [1e15, 1e15, 0]]), rows * lengths),
        ):
            out = run(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_bfloat16_products_change_little():
    x, w, labels = (jnp.asarray(part) for part in problem())
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)

    def total(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
        values = hypersphere.streaming_loss(
            x, w, labels, SFACE, class_chunk=4, compute_dtype=dtype
        )
        return masked_mean(values)

    slope = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)
    for narrow, wide in zip(slope(x, w, jnp.bfloat16), slope(x, w, None), strict=True):
        assert narrow.dtype == jnp.float32
        error = np.max(np.abs(narrow - wide)) / np.max(np.abs(wide))
        assert 1e-5 < error < 2e-2


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
def test_gradients_under_vmap_equal_a_loop_over_scales():
    x, w, labels = (jnp.asarray(part) for part in problem())

    def total(scale: jax.Array, w: jax.Array, power: jax.Array) -> jax.Array:
        config = dataclasses.replace(SFACE, scale=scale)
        values = hypersphere.streaming_loss(x, w, labels, config, class_chunk=4)
        # Some of the cotangents are those that were expected, others are not.
        return jnp.sum(values / (BATCH - 1) * jnp.arange(1.0, BATCH + 1) ** power)

    slope = jax.jit(jax.grad(total, argnums=(0, 1)))
    scales, powers = jnp.array([8.0, 32.0, 64.0]), jnp.array([0.0, 1.0, 0.0])
    together = jax.jit(jax.vmap(slope, (0, None, 0)))(scales, w, powers)
    alone = [slope(s, w, p) for s, p in zip(scales, powers, strict=True)]
    assert_same(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_the_fast_gradient_is_of_reverse_mode_alone():
    x, w, labels = (jnp.asarray(part) for part in problem())
    loss = lambda x: hypersphere.streaming_loss(x, w, labels, SFACE)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))
