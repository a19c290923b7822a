"""Any loss with class weights, with the classes spread over devices."""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.hypersphere._dense import finish
from jaxkit.hypersphere._geometry import read_sample
from jaxkit.hypersphere._inputs import Batch, read_arrays, read_labels, refuse_labels
from jaxkit.hypersphere._protocol import ClassLoss, Sample, Terms, cast_leaves
from jaxkit.hypersphere._separable_sums import other_total
from jaxkit.hypersphere._slices import Classes, Plan
from jaxkit.hypersphere._softmax_sums import Exponentials, excess, other_exponentials
from jaxkit.hypersphere._streaming import check_plan, product_dtype, take_own
from jaxkit.ops import l2_normalize, masked_fill, match_varying, safe_norm
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = ["ShardedLoss", "class_sharded_loss", "make_sharded_loss", "pad_classes"]


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
            _local_loss,
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


def class_sharded_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    *,
    num_classes: int,
    class_axis: str = "classes",
    data_axis: str | None = None,
    class_chunk: int | None = None,
    active_limit: int = 0,
    active_eps: ArrayLike = 1e-6,
    state: PyTree = None,
    key: Key | None = None,
    compute_dtype: DTypeLike | None = None,
    all_derivatives: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes a loss inside :func:`jax.shard_map`, with classes spread over an axis.

    .. math:: \ell_i = v_i + \sum_d \sum_{j \in \mathcal C_d,\, j \ne y_i} f(c_{ij})

    for a separable loss; see :func:`make_sharded_loss`, which maps this function. The
    gradients are summed over the axes along which an argument is the same; that takes
    the ``check_vma=True`` of :func:`jax.shard_map`, its default.

    Args:
      embeddings: those of this device, shape ``[batch, dim]``, the same along the class
        axis.
      class_weights: the rows of this device, shape ``[rows, dim]``, the same along the
        data axis. Device ``d`` of the class axis holds the rows from ``d * rows`` on.
      labels: the class of each embedding, counted over all devices, ``[batch]``; -1
        marks a sample without a class.
      config: the loss and its hyper-parameters.
      num_classes: how many rows of all devices together are classes, not padding.
      class_axis: the axis of the mesh over which classes are spread.
      data_axis: the axis over which samples are spread; None where they are not.
      class_chunk: most classes of a slice; see :func:`streaming_loss`.
      active_limit: most classes of a slice that are computed as active ones.
      active_eps: what active means, from 0 up to 1.
      state: what an adaptive loss has learned of earlier batches.
      key: a typed random key, for losses with random margins. Devices along the data
        axis draw different numbers.
      compute_dtype: the dtype of the factors of the products with the class weights.
      all_derivatives: whether to leave the gradients to JAX.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The loss of each sample of this device, shape ``[batch]``, the same along the class
      axis. A label that is out of range gives NaN.

    Raises:
      TypeError: if an array has the wrong kind of dtype, or a key is missing.
      ValueError: if shapes do not fit or a number is out of range.

    Examples:
      >>> import functools
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere, ops
      >>> mesh = ops.data_mesh(1, axis_name="classes")
      >>> config = hypersphere.MarginConfig.normface(scale=1.0)
      >>> local = functools.partial(
      ...     hypersphere.class_sharded_loss, config=config, num_classes=2
      ... )
      >>> specs = jax.P(), jax.P("classes"), jax.P()
      >>> loss = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=jax.P())
      >>> x = jnp.array([[0.0, 2.0], [1.0, 1.0]])
      >>> print(jax.jit(loss)(x, jnp.eye(2), jnp.array([1, 0])))
      [0.3132617 0.6931472]
    """
    config.check()
    checks.at_least("num_classes", num_classes, 1)
    plan = check_plan(class_chunk, active_limit, active_eps, all_derivatives)
    return _local_loss(
        embeddings,
        class_weights,
        labels,
        config,
        active_eps,
        state,
        key,
        where,
        plan=plan,
        num_classes=num_classes,
        data_axis=data_axis,
        class_axis=class_axis,
        compute_dtype=compute_dtype,
    )


def _local_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    active_eps: ArrayLike,
    state: PyTree,
    key: Key | None,
    where: ArrayLike | None,
    *,
    plan: Plan,
    num_classes: int,
    data_axis: str | None,
    class_axis: str,
    compute_dtype: DTypeLike | None,
) -> jax.Array:
    dtype = product_dtype(embeddings, class_weights, compute_dtype)
    batch = _read_local(embeddings, class_weights, labels, where, num_classes)
    config, state, eps = cast_leaves(
        (config, state, active_eps), batch.embeddings.dtype
    )
    if key is not None and data_axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(data_axis))
    # In reverse, what is the same along an axis is summed over it: these casts do so.
    axes = (class_axis,) if data_axis is None else (data_axis, class_axis)
    spread = lambda tree: _vary(tree, axes)
    first = jax.lax.axis_index(class_axis) * batch.class_weights.shape[0]
    x, weights, rows = spread(
        (
            batch.embeddings,
            batch.class_weights,
            batch.rows.astype(jnp.int32) - first,
        )
    )
    sample, weights = _own_sample(batch, x, weights, rows, config, plan, class_axis)
    terms = config.terms(sample, num_classes, state=state, key=key)
    classes = Classes(
        loss=spread(config),
        unit=l2_normalize(x) if config.normalized else x,
        class_weights=weights,
        context=spread(terms.context),
        own=rows,
        count=spread(num_classes - first),
        dtype=dtype,
    )
    values = _values(plan, classes, terms, batch, spread, eps, data_axis, class_axis)
    return finish(values, batch)


def _read_local(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    num_classes: int,
) -> Batch:
    raw = jnp.asarray(class_weights)
    embeddings, _ = read_arrays(embeddings, class_weights)
    if raw.ndim != 2:
        raise ValueError(
            f"`class_weights` must have shape (rows, dim), got {raw.shape}."
        )
    labels = read_labels(labels, embeddings.shape[0])
    mask = checks.mask("where", where, labels.shape)
    inside = (labels >= 0) & (labels < num_classes)
    counts = mask & inside
    return Batch(
        masked_fill(embeddings, counts[:, None]),
        raw,
        jnp.where(counts, labels, jnp.zeros_like(labels)),
        counts,
        mask & ~inside & (labels != -1),
    )


def _vary(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    """Marks arrays as different along the axes, whatever they are."""
    for axis in axes:
        index = jax.lax.axis_index(axis)
        tree = jax.tree.map(lambda leaf, index=index: match_varying(leaf, index), tree)
    return tree


def _own_sample(
    batch: Batch,
    x: jax.Array,
    weights: jax.Array,
    rows: jax.Array,
    config: ClassLoss,
    plan: Plan,
    class_axis: str,
) -> tuple[Sample, jax.Array]:
    """Measures the own angles where the own classes are, and tells all devices."""
    owns = (rows >= 0) & (rows < weights.shape[0])
    here = jnp.where(owns, rows, 0)
    own, weights = take_own(plan, weights, here)
    own = masked_fill(own.astype(x.dtype), owns[:, None])
    angle = read_sample(batch._replace(embeddings=x), own, config.normalized).angle
    tell = lambda leaf: jax.lax.psum(masked_fill(leaf, owns), class_axis)
    angle = jax.tree.map(tell, angle)
    return Sample(angle, safe_norm(batch.embeddings), batch.where), weights


def _values(
    plan: Plan,
    classes: Classes,
    terms: Terms,
    batch: Batch,
    spread: Callable[[PyTree], PyTree],
    eps: jax.Array,
    data_axis: str | None,
    class_axis: str,
) -> jax.Array:
    if terms.anchor is None:
        count = jnp.sum(batch.where, dtype=jnp.int32)
        if data_axis is not None:
            count = jax.lax.psum(count, data_axis)
        guess = batch.where.astype(eps.dtype) / jnp.maximum(count, 1).astype(eps.dtype)
        total = other_total(plan, classes, spread(guess), spread(eps))
        return terms.value + jax.lax.psum(total, class_axis)
    plain = terms.smoothing is not None
    sums = other_exponentials(
        plan, classes, spread(terms.anchor), spread(eps), plain=plain
    )
    maximum = jax.lax.pmax(jax.lax.stop_gradient(sums.maximum), class_axis)
    total = sums.total * jnp.exp(jax.lax.stop_gradient(sums.maximum) - maximum)
    total = jax.lax.psum(total, class_axis)
    value = terms.value + excess(Exponentials(maximum, total, sums.plain))
    if terms.smoothing is None:
        return value
    return value - terms.smoothing * jax.lax.psum(sums.plain, class_axis)
