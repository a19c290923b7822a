"""Meshes and placements for data-parallel programs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxkit._core import checks
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["data_mesh", "match_varying", "shard_batch"]


def data_mesh(num_devices: int | None = None, *, axis_name: str = "data") -> Mesh:
    """Makes a one-axis mesh over the first devices.

    The axis has type ``Auto``: the compiler propagates the sharding, and ordinary
    code (``x @ x.T``, gathers, gradients) needs no annotation. The default type of
    :func:`jax.make_mesh`, ``Explicit``, refuses such code.

    Args:
      num_devices: how many devices; None takes all.
      axis_name: the name of the axis.

    Returns:
      The mesh.

    Raises:
      TypeError: if ``num_devices`` is not an integer.
      ValueError: if ``num_devices`` is less than 1 or more than there are.

    Examples:
      >>> from jaxkit import ops
      >>> ops.data_mesh(1).shape["data"]
      1
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    checks.at_least("num_devices", count, 1)
    if count > len(devices):
        raise ValueError(
            f"`num_devices` must be at most the {len(devices)} devices of the "
            f"{devices[0].platform} backend, got {count}."
        )
    return jax.make_mesh(
        (count,), (axis_name,), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Spreads axis 0 of every array over the first axis of a mesh.

    Args:
      batch: a pytree of arrays, each with a leading batch axis.
      mesh: a mesh such as :func:`data_mesh` makes.

    Returns:
      The same pytree, placed on the devices of the mesh.

    Raises:
      ValueError: if a leading axis is missing or not a multiple of the mesh axis.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> batch = {"x": jnp.ones((4, 3))}
      >>> ops.shard_batch(batch, ops.data_mesh(1))["x"].shape
      (4, 3)
    """
    axis_name = mesh.axis_names[0]
    count = mesh.shape[axis_name]
    for path, leaf in jax.tree.leaves_with_path(batch):
        leaf_shape = jnp.shape(leaf)
        if not leaf_shape or leaf_shape[0] % count:
            raise ValueError(
                f"`batch{jax.tree_util.keystr(path)}` must have a leading axis "
                f"divisible by {count}, got shape {leaf_shape}."
            )
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(axis_name)))


def match_varying(init: PyTree, like: ArrayLike) -> PyTree:
    """Marks a constant as varying over the mesh axes over which an array varies.

    Inside :func:`jax.shard_map` a scan whose carry starts from constants is refused,
    because the carry comes out varying over the mesh. Outside it this function
    returns its first argument unchanged.

    Args:
      init: a pytree of arrays, the start of a scan carry.
      like: an array that already varies over the mesh, such as the scanned input.

    Returns:
      ``init`` with the varying axes of ``like``.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> def total(x):
      ...     init = ops.match_varying(jnp.zeros(()), x)
      ...     return jax.lax.scan(lambda c, v: (c + v, None), init, x)[0][None]
      >>> mesh = ops.data_mesh(1)
      >>> spec = jax.P("data")
      >>> f = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec)
      >>> print(f(jnp.arange(3.0)))
      [3.]
    """

    def cast(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        missing = _varying(like) - _varying(leaf)
        return jax.lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(cast, init)


def _varying(array: ArrayLike) -> frozenset[str]:
    manual = getattr(jax.typeof(array), "manual_axis_type", None)
    return frozenset() if manual is None else frozenset(manual.varying)
