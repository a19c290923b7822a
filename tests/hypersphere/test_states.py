"""What adaptive losses learn of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxkit import hypersphere as hs
from tests.hypersphere._reference import CIRCLE, spread_problem


@pytest.mark.usefixtures("x64", "quick_compile")
def test_the_scale_of_adacos():
    x, w, labels = CIRCLE
    start = hs.AdaCosState(0.980258143469)
    np.testing.assert_allclose(hs.adacos_init(3).scale, start.scale, rtol=1e-7)
    state = hs.adacos_update(start, x, w, labels)
    np.testing.assert_allclose(state.scale, 1.293694114095, rtol=1e-11)


def formula(scale: float, x: Any, w: Any, labels: Any) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    own = cosines[np.arange(len(x)), labels]
    total = np.sum(np.exp(scale * cosines)) - np.sum(np.exp(scale * own))
    median = np.sort(np.arccos(own))[(len(x) - 1) // 2]
    return np.log(total / len(x)) / np.cos(min(np.pi / 4, median))


def test_ignored_samples_do_not_move_a_state():
    x, w, labels = spread_problem()
    kept = np.array([0, 2, 3])
    ignored = np.full_like(labels, -1)
    ignored[kept] = labels[kept]
    spoiled = np.full_like(x, np.nan)
    spoiled[kept] = x[kept]
    out = hs.adacos_update(hs.AdaCosState(2.0), spoiled, w, ignored)
    want = formula(2.0, x[kept], w, labels[kept])
    np.testing.assert_allclose(out.scale, want, rtol=1e-5)

    norms = np.linalg.norm(x[kept], axis=1)
    moved = hs.adaface_update(hs.adaface_init(), spoiled, ignored, momentum=0.25)
    np.testing.assert_allclose(moved.mean, 0.25 * norms.mean() + 15, rtol=1e-6)
    np.testing.assert_allclose(moved.std, 0.25 * norms.std(ddof=1) + 75, rtol=1e-6)

    own = np.cos([0.05, 1.1, 1.7])
    start = hs.CurricularFaceState(0.5)
    moved = hs.curricularface_update(start, spoiled, w, ignored, momentum=0.1)
    np.testing.assert_allclose(moved.mean_cos, 0.1 * own.mean() + 0.45, rtol=1e-5)


def test_a_batch_in_which_nothing_counts_changes_nothing():
    x, w, labels = spread_problem()
    nothing = np.full_like(labels, -1)
    adacos = hs.adacos_update(hs.AdaCosState(2.0), x, w, nothing)
    adaface = hs.adaface_update(hs.adaface_init(), x, nothing)
    curricular = hs.curricularface_update(hs.CurricularFaceState(0.5), x, w, nothing)
    assert (adacos.scale, curricular.mean_cos) == (2.0, 0.5)
    assert (adaface.mean, adaface.std) == (20.0, 100.0)


def test_the_spread_of_a_single_sample_is_zero():
    x, labels = np.array([[3.0, 4.0]], np.float32), np.array([0])
    state = hs.adaface_update(hs.adaface_init(), x, labels, momentum=1.0)
    np.testing.assert_allclose([state.mean, state.std], [5.0, 0.0])


@pytest.mark.slow
def test_a_large_scale_does_not_overflow():
    x, w, labels = (np.asarray(part, np.float32) for part in spread_problem())
    state = hs.adacos_update(hs.AdaCosState(500.0), x, w, labels.astype(int))
    assert np.isfinite(state.scale)


@pytest.mark.slow
def test_no_gradient_flows_through_a_state():
    x, w, labels = (jnp.asarray(part, jnp.float32) for part in CIRCLE)
    labels = CIRCLE[2]

    def total(x: jax.Array) -> jax.Array:
        adacos = hs.adacos_update(hs.AdaCosState(2.0), x, w, labels)
        adaface = hs.adaface_update(hs.adaface_init(), x, labels)
        curricular = hs.curricularface_update(hs.curricularface_init(), x, w, labels)
        return sum(jnp.sum(leaf) for leaf in (*adacos, *adaface, *curricular))

    np.testing.assert_array_equal(jax.grad(total)(x), 0.0)


@pytest.mark.slow
def test_a_batch_over_devices_gives_the_state_of_the_whole():
    x, w, labels = (np.asarray(part, np.float32) for part in spread_problem())
    x, labels = np.concatenate([x, x[:2] * 2]), np.append(labels, [-1, 2]).astype(int)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def update(x: Any, w: Any, labels: Any, axis_name: str | None = None) -> Any:
        options = {"axis_name": axis_name}
        return (
            hs.adacos_update(hs.AdaCosState(2.0), x, w, labels, **options),
            hs.adaface_update(hs.adaface_init(), x, labels, **options),
            hs.curricularface_update(hs.curricularface_init(), x, w, labels, **options),
        )

    spread = jax.jit(
        jax.shard_map(
            lambda *args: update(*args, axis_name="data"),
            mesh=mesh,
            in_specs=(P("data"), P(), P("data")),
            out_specs=P(),
        )
    )
    got, want = spread(x, w, labels), update(x, w, labels)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_scan_can_carry_the_states():
    x, w, labels = CIRCLE
    states = (hs.adacos_init(3), hs.adaface_init(), hs.curricularface_init())

    def step(states: Any, _: None) -> tuple[Any, None]:
        adacos, adaface, curricular = states
        return (
            hs.adacos_update(adacos, x, w, labels),
            hs.adaface_update(adaface, x, labels),
            hs.curricularface_update(curricular, x, w, labels),
        ), None

    states, _ = jax.lax.scan(step, states, length=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {jnp.dtype("float32")}
