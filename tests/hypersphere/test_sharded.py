"""Classes spread over devices give the numbers of one device."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere, ops
from tests.hypersphere.test_streaming import (
    CLASSES,
    SFACE,
    SMOOTHED,
    WEIGHTS,
    assert_same,
    problem,
    slopes,
)


def grid(*shape: int) -> jax.sharding.Mesh:
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "classes"), axis_types=auto)


def check_mesh(mesh: jax.sharding.Mesh, config: Any) -> None:
    loss = hypersphere.make_sharded_loss(config, mesh, CLASSES, class_chunk=2)
    x, w, labels = (jnp.asarray(part) for part in problem())
    padded = hypersphere.pad_classes(w, multiple=mesh.shape["classes"])

    @jax.jit
    def sharded(x: jax.Array, w: jax.Array, weights: jax.Array) -> Any:
        def total(x: jax.Array, w: jax.Array) -> Any:
            values = loss(x, w, labels)
            return jnp.sum(values * weights), values

        return jax.grad(total, argnums=(0, 1), has_aux=True)(x, w)

    @jax.jit
    def whole(weights: jax.Array) -> Any:
        return slopes(hypersphere.hypersphere_loss, config, weights)

    for weights in (WEIGHTS["mean"], WEIGHTS["weighted"]):
        (dx, dw), values = sharded(x, padded, jnp.asarray(weights))
        (want_dx, want_dw, _), want = whole(jnp.asarray(weights))
        assert_same((dx, dw[:CLASSES], values), (want_dx, want_dw, want))
        assert not np.any(dw[CLASSES:])


@pytest.mark.usefixtures("x64", "quick_compile")
def test_a_mesh_of_both_axes_equals_one_device():
    check_mesh(grid(2, 2), SFACE)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
def test_softmax_on_a_mesh_equals_one_device():
    check_mesh(grid(2, 2), SMOOTHED)


_EIGHT = """
    import functools
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp
    import numpy as np
    from jaxkit import hypersphere, ops

    C, B, D = 101, 16, 8
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = jax.random.normal(keys[0], (B, D)), jax.random.normal(keys[1], (C, D))
    labels = jax.random.randint(keys[2], (B,), -1, C)
    configs = hypersphere.SFaceConfig.small_scale(), hypersphere.MarginConfig.arcface()

    def program(losses):
        def total(x, w):
            values = sum(loss(x, w, labels) for loss in losses)
            return ops.masked_mean(values, where=labels >= 0)

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))

    dense = [
        functools.partial(hypersphere.hypersphere_loss, config=config)
        for config in configs
    ]
    want = program(dense)(x, w)
    for shape in ((1, 8), (2, 4), (8, 1)):
        auto = (jax.sharding.AxisType.Auto,) * 2
        mesh = jax.make_mesh(shape, ("data", "classes"), axis_types=auto)
        padded = hypersphere.pad_classes(w, multiple=shape[1])
        place = lambda a, *p: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*p)))
        args = place(x, "data"), place(padded, "classes")
        losses = [
            hypersphere.make_sharded_loss(config, mesh, C, class_chunk=5)
            for config in configs
        ]
        compiled = program(losses).lower(*args).compile()
        assert "all-gather" not in compiled.as_text()
        value, (dx, dw) = compiled(*args)
        assert dw.sharding.is_equivalent_to(args[1].sharding, 2), dw.sharding
        assert not np.any(dw[C:])
        for a, b in zip((value, dx, dw[:C]), jax.tree.leaves(want)):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    print("all equal")
"""


@pytest.mark.slow
def test_eight_devices_equal_one_and_gather_nothing():
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_EIGHT)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout.endswith("all equal\n"), out.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_streaming_gathers_no_batch_that_is_spread_over_devices():
    mesh = ops.data_mesh(4)
    place = lambda shape, *spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(*spec))
    )

    def total(x: jax.Array, w: jax.Array) -> jax.Array:
        labels = jnp.arange(8)
        sizes = {"class_chunk": 16, "active_limit": 4}
        return ops.masked_mean(hypersphere.streaming_loss(x, w, labels, SFACE, **sizes))

    slope = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    program = slope.lower(place((8, 4), "data"), place((64, 4))).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program


def test_what_does_not_fit_the_mesh_is_refused():
    x, w, labels = (jnp.asarray(part, None) for part in problem())
    mesh = grid(2, 2)
    make = hypersphere.make_sharded_loss
    with pytest.raises(ValueError, match="`class_axis` must be one of 'data', 'cla"):
        make(SFACE, mesh, CLASSES, class_axis="rows")
    with pytest.raises(ValueError, match="`num_classes` must be at least 1, got 0"):
        make(SFACE, mesh, 0)
    with pytest.raises(ValueError, match="`class_chunk` must be at least 1"):
        make(SFACE, mesh, CLASSES, class_chunk=0)
    loss = make(SFACE, mesh, CLASSES)
    with pytest.raises(ValueError, match=r"`class_weights` must have a leading axis"):
        loss(x, w, labels)
    padded = hypersphere.pad_classes(w, multiple=2)
    with pytest.raises(ValueError, match=r"`embeddings` must have a leading axis"):
        loss(x[:5], padded, labels[:5])
    with pytest.raises(ValueError, match=r"lie in \[0, 11\), got 11 to 11"):
        loss(x, padded, jnp.full_like(labels, CLASSES))
