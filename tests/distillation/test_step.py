"""One step: its loss, its gradients and what it must not do."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import distillation, ops
from jaxkit.distillation import DistillConfig, DistillState
from tests.distillation._tiny import (
    SHAPE,
    data,
    kernel,
    network_numpy,
    parts,
    start,
)

pytestmark = pytest.mark.usefixtures("quick_compile")

SIZES = {"num_models": 2, "inner_steps": 4, "method": "cholesky"}
SLOW = pytest.mark.slow
KRR_ST = DistillConfig(**SIZES)


def step_of(config: DistillConfig, **changes: Any) -> Any:
    return distillation.make_distill_step(**parts(config, **changes))


@functools.cache
def compiled() -> Any:
    return jax.jit(step_of(KRR_ST))


def predict_numpy(
    gram: np.ndarray, cross: np.ndarray, targets: np.ndarray, ridge: float
) -> np.ndarray:
    return cross @ np.linalg.solve(gram + ridge * np.eye(len(gram)), targets)


def features_numpy(
    state: DistillState, models: Any, images: np.ndarray, *, bias: float, gain: Any
) -> np.ndarray:
    features = np.concatenate(
        [network_numpy(state, int(i))(images) for i in models], axis=1
    )
    if gain:
        features = features * np.sqrt(gain / features.shape[1])
    column = np.full((len(images), 1), bias)
    return np.concatenate([features, column], axis=1) if bias else features


def grams_numpy(
    name: str, state: DistillState, models: Any, images: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if name == "kip":
        flat = lambda x: x.reshape(len(x), -1)
        make = lambda x, y: (1 + flat(x) @ flat(y).T) ** 2
        return make(images, images), make(real, images)
    bias, gain = {"rfad": (0.1, 2.0), "krr_st": (1.0, 0)}.get(name, (0.0, 0))
    embed = functools.partial(features_numpy, state, models, bias=bias, gain=gain)
    synthetic = embed(images)
    return synthetic @ synthetic.T, embed(real) @ synthetic.T


VARIANTS = {
    "krr_st": DistillConfig.krr_st(**SIZES),
    "frepo": DistillConfig.frepo(num_models=2, ridge_coef=1e-2, method="cholesky"),
    "kip": DistillConfig.kip(ridge_coef=1e-2, learn_targets=True),
    "rfad": DistillConfig.rfad(num_models=2, ridge_coef=1e-2, method="cholesky"),
}


@pytest.mark.parametrize(
    "name",
    ["krr_st", "kip", *(pytest.param(n, marks=SLOW) for n in ("frepo", "rfad"))],
)
def test_loss_and_gradients_follow_the_formulas(name: str, x64: None):
    config = VARIANTS[name]
    change = {"network": kernel} if name == "kip" else {}
    outer = {"outer_optimizer": optax.sgd(1.0)}
    state = start(config, **change, **outer)
    real_images, real_targets = data(4, seed=1, dtype=jnp.float64)
    step = jax.jit(step_of(config, **change, **outer))
    after, metrics = step(state, real_images, real_targets)
    real = np.asarray(real_images)
    factor = {"krr_st": 1.0, "frepo": 0.5 * 2}.get(name, 0.5)

    def formula(images: np.ndarray, targets: np.ndarray, trace: float | None) -> float:
        gram, cross = grams_numpy(name, state, metrics.models, images, real)
        scale = 1 if name == "krr_st" else len(gram)
        live = np.trace(gram) if trace is None else trace
        ridge = float(config.ridge_coef) * live / scale
        error = predict_numpy(gram, cross, targets, ridge) - np.asarray(real_targets)
        loss = factor * np.mean(error**2)
        if name == "frepo":
            top = np.sort(targets, axis=1)
            loss -= np.mean(np.minimum(top[:, -1] - top[:, -2], 0.5))
        return loss

    pair = tuple(np.asarray(x) for x in state.synthetic)
    assert metrics.loss == pytest.approx(formula(*pair, None), rel=1e-9)
    # KRR-ST takes the ridge for a constant; the others do not.
    fixed = None
    if name == "krr_st":
        fixed = np.trace(grams_numpy(name, state, metrics.models, pair[0], real)[0])
    for place, field in enumerate(("images", "targets")):
        moved = getattr(state.synthetic, field) - getattr(after.synthetic, field)
        slope = np.zeros(moved.shape)
        for index in np.ndindex(*moved.shape):
            ends = []
            for h in (1e-5, -1e-5):
                shifted = [pair[0].copy(), pair[1].copy()]
                shifted[place][index] += h
                ends.append(formula(*shifted, fixed))
            slope[index] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(moved, slope, rtol=1e-5, atol=1e-7)
        norm = getattr(metrics, f"grad_norm_{field}")
        assert norm == pytest.approx(np.linalg.norm(slope), rel=1e-5)


def assert_same_step(got: DistillState, want: DistillState) -> None:
    chex.assert_trees_all_close(
        got._replace(key=0), want._replace(key=0), rtol=1e-5, atol=1e-6
    )


def test_a_donated_step_repeats_and_spares_the_arrays_of_the_caller():
    images, targets = data(3)
    donor = distillation.init_distill_state(
        jax.random.key(0), images, targets, **parts(KRR_ST)
    )
    state, real = jax.tree.map(jnp.copy, donor), data(4, seed=1)
    first, metrics = compiled()(state, *real)
    again, _ = compiled()(state, *real)
    chex.assert_trees_all_equal(first.synthetic, again.synthetic)
    donated, _ = jax.jit(step_of(KRR_ST), donate_argnums=0)(donor, *real)
    assert_same_step(donated, first)
    assert donor.pool.params["hidden"].is_deleted()
    assert not images.is_deleted()
    assert not targets.is_deleted()
    assert metrics.finite


@SLOW
def test_the_compiled_step_is_the_plain_one():
    state, real = start(KRR_ST), data(4, seed=1)
    assert_same_step(step_of(KRR_ST)(state, *real)[0], compiled()(state, *real)[0])


@pytest.mark.parametrize("name", ["krr_st", "kip"])
def test_no_gradient_reaches_the_real_images(name: str):
    config, change = VARIANTS[name], {"network": kernel} if name == "kip" else {}
    state, (images, targets) = start(config, **change), data(4, seed=1)

    @jax.jit
    def slopes(images: jax.Array, targets: jax.Array) -> Any:
        loss = lambda x, y: step_of(config, **change)(state, x, y)[1].loss
        return jax.grad(loss, argnums=(0, 1))(images, targets)

    image_slope, target_slope = slopes(images, targets)
    assert not np.any(image_slope)
    assert np.any(target_slope)


@SLOW
@pytest.mark.parametrize("kept", ["images", "targets"])
def test_what_is_not_learned_does_not_move(kept: str):
    config = DistillConfig(**SIZES, **{f"learn_{kept}": False})
    # Weight decay would move whatever the optimizer sees.
    outer = {"outer_optimizer": optax.adamw(0.1, weight_decay=0.5)}
    state = start(config, **outer)
    after, metrics = jax.jit(step_of(config, **outer))(state, *data(4, seed=1))
    moved = {"images": "targets", "targets": "images"}[kept]
    for name, changes in ((kept, False), (moved, True)):
        old, new = getattr(state.synthetic, name), getattr(after.synthetic, name)
        assert np.any(old != new) == changes
        assert (getattr(metrics, f"grad_norm_{name}") > 0) == changes
    sizes = {leaf.shape for leaf in jax.tree.leaves(state.outer_opt_state)}
    assert getattr(state.synthetic, kept).shape not in sizes


@SLOW
def test_seeds_may_be_mapped_over():
    states = [start(KRR_ST, seed=seed) for seed in (0, 1)]
    real = data(4, seed=1)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together, _ = jax.jit(jax.vmap(step_of(KRR_ST), in_axes=(0, None, None)))(
        stacked, *real
    )
    for index, state in enumerate(states):
        alone, _ = compiled()(state, *real)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=index: x[i], together.synthetic),
            alone.synthetic,
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("name", ["krr_st", pytest.param("kip", marks=SLOW)])
def test_four_devices_give_the_step_of_one(name: str):
    config = {
        "krr_st": KRR_ST,
        "kip": DistillConfig.kip(learn_targets=True, margin_weight=0.1),
    }[name]
    change = {"network": kernel} if name == "kip" else {}
    state, real = start(config, **change), data(8, seed=1)
    step = compiled() if name == "krr_st" else jax.jit(step_of(config, **change))
    one, one_metrics = step(state, *real)
    mesh = ops.data_mesh(4)
    shards = ops.shard_batch(real, mesh)
    by_hand = jax.shard_map(
        step_of(config, axis_name="data", **change),
        mesh=mesh,
        in_specs=(jax.P(), jax.P("data"), jax.P("data")),
        out_specs=jax.P(),
    )
    state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
    by_hand = jax.jit(by_hand).lower(state, *shards).compile()
    by_compiler = jax.jit(step_of(config, **change))
    for step in (by_hand, by_compiler):
        many, metrics = step(state, *shards)
        pairs = ((many.synthetic, one.synthetic), (many.pool, one.pool))
        for got, want in pairs:
            chex.assert_trees_all_close(
                jax.device_get(got), jax.device_get(want), rtol=1e-5, atol=1e-6
            )
        chex.assert_trees_all_close(
            jax.device_get(metrics), jax.device_get(one_metrics), rtol=1e-5
        )
    if name == "krr_st":
        # What crosses devices is the cotangent of the weights, 3 features and a bias
        # for 2 outputs, and the loss: no gradient of an image.
        text = by_hand.as_text()
        sums = [line for line in text.splitlines() if " all-reduce(" in line]
        assert sums
        assert all("f32[4,2]" in line or "f32[]" in line for line in sums)
        assert not any("f32[3,2,2,1]" in line for line in sums)


def test_a_bad_teacher_shows_in_the_metrics_and_nothing_is_skipped():
    state, (images, targets) = start(KRR_ST), data(4, seed=1)
    after, metrics = compiled()(state, images, targets.at[0, 0].set(jnp.nan))
    assert not metrics.finite
    assert after.step == 1
    assert np.any(np.isnan(after.synthetic.targets))


@SLOW
def test_a_schedule_of_the_ridge_does_not_compile_again():
    state, real = start(KRR_ST), data(4, seed=1)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(state: DistillState, coef: jax.Array) -> Any:
        config = DistillConfig(**SIZES, ridge_coef=coef)
        return distillation.distill_step(state, *real, **parts(config))

    losses = [step(state, jnp.float32(c))[1].loss for c in (1e-6, 1e-1)]
    assert losses[0] != losses[1]


@SLOW
def test_low_precision_images_stay_so():
    low = lambda pair: tuple(x.astype(jnp.bfloat16) for x in pair)
    state = distillation.init_distill_state(
        jax.random.key(0), *low(data(3)), **parts(KRR_ST)
    )
    after, metrics = compiled()(state, *low(data(4, seed=1)))
    assert after.synthetic.images.dtype == jnp.bfloat16
    assert metrics.loss.dtype == jnp.float32


@SLOW
def test_mirrored_images_join_the_outer_loss(x64: None):
    config = DistillConfig(**SIZES, flip_images=True)
    state, real = start(config), data(4, seed=1, dtype=jnp.float64)
    _, metrics = jax.jit(step_of(config))(state, *real)
    images, targets = (np.asarray(x) for x in state.synthetic)
    images = np.concatenate([images, images[:, :, ::-1]])
    gram, cross = grams_numpy(
        "krr_st", state, metrics.models, images, np.asarray(real[0])
    )
    doubled = np.concatenate([targets, targets])
    error = predict_numpy(gram, cross, doubled, 1e-6 * np.trace(gram)) - real[1]
    assert metrics.loss == pytest.approx(np.mean(np.asarray(error) ** 2), rel=1e-6)


@SLOW
def test_the_loss_falls():
    config = DistillConfig(num_models=3, inner_steps=20)
    outer = {"outer_optimizer": optax.adam(0.05)}
    state = start(config, count=6, **outer)
    images, _ = data(64, seed=1)
    flat = np.asarray(images).reshape(64, -1)
    targets = jnp.asarray(np.tanh(flat[:, :2] + flat[:, 2:]))
    run = functools.partial(
        distillation.run_distillation, **parts(config, **outer), batch_size=64
    )
    _, metrics = run(state, images, targets, num_steps=150)
    assert np.mean(metrics.loss[-20:]) < 0.5 * np.mean(metrics.loss[:20])


def test_a_margin_needs_two_outputs():
    config = DistillConfig.kip(learn_targets=True, margin_weight=1.0)
    state, (images, targets) = start(config, network=kernel), data(4, seed=1)
    one = state.synthetic._replace(targets=state.synthetic.targets[:, :1])
    with pytest.raises(ValueError, match=r"`margin_weight`.*got targets.*\(3, 1\)"):
        jax.eval_shape(
            step_of(config, network=kernel),
            state._replace(synthetic=one),
            images,
            targets[:, :1],
        )


GOOD = data(4, seed=1)
BAD = [
    ((GOOD[0][0], GOOD[1]), ValueError, r"`real_images` must have shape.*\(2, 2, 1\)"),
    ((GOOD[0][:0], GOOD[1][:0]), ValueError, r"`real_images`.*not be empty.*\(0, 2"),
    ((GOOD[0], GOOD[1][:3]), ValueError, r"`real_targets`.*\(4, outputs\).*\(3, 2\)"),
    (
        (GOOD[0], GOOD[1][:, :1]),
        ValueError,
        r"`real_targets` and the synthetic targets.*\(4, 1\) and \(3, 2\)",
    ),
    (
        (jnp.ones((4, 3, 2, 1)), GOOD[1]),
        ValueError,
        r"`real_images` and the synthetic images.*\(4, 3, 2, 1\) and \(3, 2, 2, 1\)",
    ),
    ((GOOD[0].astype(jnp.int32), GOOD[1]), TypeError, "`real_images`.*int32"),
]


@pytest.mark.parametrize(("real", "error", "match"), BAD)
def test_bad_batches_are_refused(real: Any, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        jax.eval_shape(step_of(KRR_ST), _state(), *real)


@functools.cache
def _state() -> DistillState:
    return start(KRR_ST)


def test_bad_starts_are_refused():
    init = functools.partial(distillation.init_distill_state, **parts(KRR_ST))
    images, targets = data(3)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`images`.*not be empty.*\(0, 2, 2, 1\)"):
        init(key, images[:0], targets[:0])
    with pytest.raises(TypeError, match=r"`images`.*int32"):
        init(key, images.astype(jnp.int32), targets)
    with pytest.raises(ValueError, match=r"`targets`.*\(3, outputs\).*\(2, 2\)"):
        init(key, images, targets[:2])
    with pytest.raises(TypeError, match="`key` must be a typed key"):
        init(jnp.zeros(2, jnp.uint32), images, targets)


def test_functions_of_wrong_shapes_are_refused():
    state, real = _state(), data(4, seed=1)
    network = parts(KRR_ST)["network"]
    flat = network._replace(embed=lambda params, stats, images: images)
    with pytest.raises(ValueError, match=r"`network.embed`.*\(4, 2, 2, 1\)"):
        jax.eval_shape(step_of(KRR_ST, network=flat), state, *real)
    wide = network._replace(apply=lambda p, s, x, train: (x.reshape(x.shape[0], -1), s))
    with pytest.raises(ValueError, match=r"`network.apply`.*\(3, 4\) and \(3, 2\)"):
        jax.eval_shape(step_of(KRR_ST, network=wide), state, *real)
    with pytest.raises(ValueError, match="`state` must have been made with the same"):
        jax.eval_shape(step_of(KRR_ST, network=kernel), state, *real)


@SLOW
def test_one_synthetic_image_is_enough():
    state = start(KRR_ST, count=1)
    after, metrics = compiled()(state, *data(4, seed=1))
    assert after.synthetic.images.shape == (1, *SHAPE)
    assert metrics.finite
