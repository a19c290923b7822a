"""Any loss with class weights, on the classes that one device of a mesh holds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.hypersphere._dense import finish
from jaxkit.hypersphere._geometry import read_sample
from jaxkit.hypersphere._inputs import Batch, read_arrays, read_labels
from jaxkit.hypersphere._protocol import ClassLoss, Sample, Terms, cast_leaves
from jaxkit.hypersphere._separable_sums import other_total
from jaxkit.hypersphere._slices import Classes, Plan
from jaxkit.hypersphere._softmax_sums import Exponentials, excess, other_exponentials
from jaxkit.hypersphere._streaming import check_plan, product_dtype, take_own
from jaxkit.ops import l2_normalize, masked_fill, match_varying, safe_norm
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = ["class_sharded_loss", "local_loss"]


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
        axis draw different numbers, and rank their own samples only.
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
    return local_loss(
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


def local_loss(
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
