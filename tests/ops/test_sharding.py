"""Meshes, placements and varying constants on four CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import ops


def test_the_mesh_has_an_automatic_axis():
    mesh = ops.data_mesh(4)
    assert mesh.shape == {"data": 4}
    # Under the default, Explicit, this product raises.
    x = ops.shard_batch(jnp.ones((8, 3)), mesh)
    np.testing.assert_allclose(x @ x.T, 3.0)


def test_a_batch_is_spread_over_the_devices():
    batch = {"x": jnp.arange(8.0), "y": jnp.ones((4, 2))}
    out = ops.shard_batch(batch, ops.data_mesh(4, axis_name="batch"))
    assert [s.data.shape for s in out["x"].addressable_shards] == [(2,)] * 4
    np.testing.assert_array_equal(out["x"], batch["x"])


def test_bad_input():
    with pytest.raises(ValueError, match=r"`batch\['x'\]`.*divisible by 4.*\(6, 2\)"):
        ops.shard_batch({"x": jnp.ones((6, 2))}, ops.data_mesh(4))
    with pytest.raises(ValueError, match=r"`num_devices` must be at most the 4"):
        ops.data_mesh(5)
    with pytest.raises(ValueError, match=r"`num_devices` must be at least 1, got 0"):
        ops.data_mesh(0)


def running_sum(x: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda c, v: (c + v, c + v), start, x)[1]


def test_a_scan_from_constants_works_inside_shard_map():
    mesh = ops.data_mesh(4)
    x = jnp.arange(8.0)

    def with_match(x: jax.Array) -> jax.Array:
        return running_sum(x, ops.match_varying(jnp.zeros(()), x))

    spec = jax.P("data")
    run = jax.shard_map(with_match, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(run(x), [0, 1, 2, 5, 4, 9, 6, 13])
    plain = lambda x: running_sum(x, jnp.zeros(()))
    with pytest.raises(TypeError, match=r"varying"):
        jax.shard_map(plain, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def test_outside_shard_map_nothing_changes():
    start = jnp.zeros(3)
    np.testing.assert_array_equal(ops.match_varying(start, jnp.ones(3)), start)
