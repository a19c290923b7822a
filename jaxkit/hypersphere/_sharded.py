"""Any loss with class weights, with the classes spread over devices."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.hypersphere._class_sharded import local_loss
from jaxkit.hypersphere._inputs import refuse_labels
from jaxkit.hypersphere._protocol import ClassLoss
from jaxkit.hypersphere._streaming import check_plan
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = ["ShardedLoss", "make_sharded_loss", "pad_classes"]


class ShardedLoss(Protocol):
    """What :func:`make_sharded_loss` returns: a loss of embeddings, weights, labels."""

    def __call__(
        self,
        embeddings: ArrayLike,
        class_weights: ArrayLike,
        labels: ArrayLike,
        *,
        state: PyTree = None,
        key: Key | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Gives the loss of each sample, spread over the data axis."""
        ...


def make_sharded_loss(
    config: ClassLoss,
    mesh: Mesh,
    num_classes: int,
    *,
    data_axis: str = "data",
    class_axis: str = "classes",
    class_chunk: int | None = None,
    active_limit: int = 0,
    active_eps: ArrayLike = 1e-6,
    compute_dtype: DTypeLike | None = None,
    all_derivatives: bool = False,
) -> ShardedLoss:
    r"""Makes a loss whose samples and classes are spread over the devices of a mesh.

    .. math:: \ell_i = v_i + \sum_d \sum_{j \in \mathcal C_d,\, j \ne y_i} f(c_{ij})

    for a separable loss, where device :math:`d` of the class axis holds the weights of
    the classes :math:`\mathcal C_d` and goes through them as :func:`streaming_loss`
    does; a softmax loss combines the normalizers of the devices instead. What crosses
    devices are a few numbers a sample and, in reverse, the gradients of the embeddings
    over the class axis and of the class weights over the data axis. Neither class
    weights nor their gradient are ever gathered.

    The mesh is best made with axes of type ``Auto``. The returned function may be
    called inside :func:`jax.jit`; inside a program that is mapped over devices already,
    call :func:`class_sharded_loss`.

    Args:
      config: the loss and its hyper-parameters.
      mesh: a mesh with both axes.
      num_classes: how many rows of the class weights are classes. Further rows, which
        :func:`pad_classes` adds, take no part and get a gradient of 0.
      data_axis: the axis of the mesh over which samples are spread.
      class_axis: the axis of the mesh over which classes are spread.
      class_chunk: most classes of a slice; see :func:`streaming_loss`.
      active_limit: most classes of a slice that are computed as active ones.
      active_eps: what active means, from 0 up to 1.
      compute_dtype: the dtype of the factors of the products with the class weights.
      all_derivatives: whether to leave the gradients to JAX.

    Returns:
      A function of ``(embeddings, class_weights, labels)``, shapes ``[batch, dim]``,
      ``[rows, dim]`` and ``[batch]``, with the keywords ``state``, ``key`` and
      ``where``, that gives the loss of each sample, shape ``[batch]``. The batch and
      the rows must be multiples of the sizes of their axes.

    Raises:
      TypeError: if a size is no integer.
      ValueError: if an axis is missing in the mesh or a number is out of range; from
        the function, if shapes do not fit the mesh.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> auto = (jax.sharding.AxisType.Auto,) * 2
      >>> mesh = jax.make_mesh((1, 1), ("data", "classes"), axis_types=auto)
      >>> config = hypersphere.MarginConfig.normface(scale=1.0)
      >>> loss = hypersphere.make_sharded_loss(config, mesh, num_classes=2)
      >>> x = jnp.array([[0.0, 2.0], [1.0, 1.0]])
      >>> print(loss(x, jnp.eye(2), jnp.array([1, 0])))
      [0.3132617 0.6931472]
    """
    config.check()
    for name, axis in (("data_axis", data_axis), ("class_axis", class_axis)):
        checks.one_of(name, axis, mesh.axis_names)
    checks.at_least("num_classes", num_classes, 1)
    plan = check_plan(class_chunk, active_limit, active_eps, all_derivatives)

    @jax.jit
    def compiled(*args: PyTree) -> jax.Array:
        data, rows = PartitionSpec(data_axis), PartitionSpec(class_axis)
        whole = PartitionSpec()
        local = functools.partial(
            local_loss,
            plan=plan,
            num_classes=num_classes,
            data_axis=data_axis,
            class_axis=class_axis,
            compute_dtype=compute_dtype,
        )
        specs = (data, rows, data, whole, whole, whole, whole, data)
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=data)(*args)

    def loss(
        embeddings: ArrayLike,
        class_weights: ArrayLike,
        labels: ArrayLike,
        *,
        state: PyTree = None,
        key: Key | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        # Rows of padding are no classes: only the number of these matters here.
        refuse_labels(labels, np.broadcast_to(0.0, (num_classes, 1)))
        _check_fit("embeddings", embeddings, mesh, data_axis)
        _check_fit("class_weights", class_weights, mesh, class_axis)
        mask = checks.mask("where", where, jnp.shape(labels))
        return compiled(
            embeddings, class_weights, labels, config, active_eps, state, key, mask
        )

    return loss


def _check_fit(name: str, array: ArrayLike, mesh: Mesh, axis: str) -> None:
    size = jnp.shape(array)[0] if jnp.ndim(array) else 0
    if size % mesh.shape[axis]:
        raise ValueError(
            f"`{name}` must have a leading axis divisible by the {mesh.shape[axis]} "
            f"devices of the axis {axis!r}, got shape {jnp.shape(array)}."
        )


@jit(static_argnames=("multiple",))
def pad_classes(class_weights: ArrayLike, *, multiple: int) -> jax.Array:
    r"""Appends rows of zeros until the rows can be spread evenly.

    .. math:: C' = m \lceil C / m \rceil

    Args:
      class_weights: floating array, shape ``[classes, ...]``.
      multiple: what the number of rows must be a multiple of, such as the number of
        devices along the class axis.

    Returns:
      The padded array; ``class_weights`` itself where nothing is missing.

    Raises:
      TypeError: if ``class_weights`` is not floating or ``multiple`` no integer.
      ValueError: if ``class_weights`` has no axis or ``multiple`` is below 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> hypersphere.pad_classes(jnp.ones((5, 2)), multiple=4).shape
      (8, 2)
    """
    (class_weights,) = checks.floating(class_weights=class_weights)
    checks.min_ndim("class_weights", class_weights, 1)
    checks.at_least("multiple", multiple, 1)
    missing = -class_weights.shape[0] % multiple
    return jnp.pad(class_weights, [(0, missing)] + [(0, 0)] * (class_weights.ndim - 1))
