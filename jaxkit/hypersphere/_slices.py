"""Classes one slice at a time: cosines, the slopes of a loss and both its gradients.

Scores are kept transposed, ``[classes, batch]``: in that order every product of a slice
runs at the full speed of a CPU. Class weights are never normalized as a whole: the
inverse lengths of the rows multiply what comes out of a product instead.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit.hypersphere._protocol import ClassLoss
from jaxkit.ops import match_varying, safe_divide, safe_norm
from jaxkit.typing import PyTree

__all__ = [
    "Classes",
    "Gradients",
    "Plan",
    "Slice",
    "as_row",
    "compare",
    "cut",
    "geometry",
    "known",
    "pull_back",
    "replace_rows",
    "scan",
    "sweep",
    "zeros",
]


class Plan(NamedTuple):
    """How to go through the classes; static.

    Attributes:
      chunk: most classes of a slice.
      active_limit: most classes of a slice that are computed as active ones; 0 for none.
      by_hand: whether gradients are written out; False leaves them to JAX.
    """

    chunk: int
    active_limit: int = 0
    by_hand: bool = True


class Classes(NamedTuple):
    """The samples and the class weights that they are compared with.

    Attributes:
      loss: what the classes are compared for.
      unit: unit embeddings ``[batch, dim]``, raw ones for a loss of inner products.
      class_weights: raw, ``[classes, dim]``.
      context: what ``loss.other`` reads of each sample, leaves ``[batch]``.
      own: row of the class of each sample, out of range where it is not here.
      count: how many rows are classes, the others being padding; None for all.
      dtype: an empty array of the dtype in which products are formed.
    """

    loss: ClassLoss
    unit: jax.Array
    class_weights: jax.Array
    context: PyTree
    own: jax.Array
    count: jax.Array | None
    dtype: jax.Array


class Slice(NamedTuple):
    """Some rows of the class weights and their scores.

    Attributes:
      start: the first row.
      rows: the raw class weights ``[rows, dim]``.
      inverse: one over their lengths, ``[rows]``; 0 for a row of zeros.
      cos: scores ``[rows, batch]``, 0 where nothing is to be compared.
      excluded: own classes, padding and rows already seen, ``[rows, batch]``.
    """

    start: jax.Array
    rows: jax.Array
    inverse: jax.Array | None
    cos: jax.Array
    excluded: jax.Array


class Gradients(NamedTuple):
    """Cotangents of a slice or of all classes.

    Attributes:
      unit: of the unit embeddings, ``[batch, dim]``.
      context: of the context, leaves ``[batch]``.
      loss: of the hyper-parameters; None where nobody asks.
      class_weights: of the raw class weights, ``[classes, dim]`` or those of a slice.
    """

    unit: jax.Array
    context: PyTree
    loss: PyTree
    class_weights: jax.Array


def geometry(num_classes: int, chunk: int) -> tuple[int, int]:
    """Gives the number and the size of the slices: equal ones where that is possible."""
    sizes = range(min(chunk, num_classes), chunk // 2, -1)
    count = -(-num_classes // chunk)
    even = -(-num_classes // count)
    size = next((n for n in sizes if num_classes % n == 0), even)
    return -(-num_classes // size), size


def cut(classes: Classes, index: jax.Array, size: int) -> Slice:
    """Takes slice number `index`; the last begins early enough to be a whole one."""
    num_rows = classes.class_weights.shape[0]
    start = jnp.minimum(index * size, num_rows - size)
    rows = jax.lax.dynamic_slice_in_dim(classes.class_weights, start, size)
    number = start.astype(jnp.int32) + jnp.arange(size, dtype=jnp.int32)
    excluded = number[:, None] == classes.own[None, :]
    if num_rows % size:
        excluded |= (number < (index * size).astype(jnp.int32))[:, None]
    if classes.count is not None:
        excluded |= (number >= classes.count)[:, None]
    cos = _product(classes, rows, classes.unit, (1, 1))
    inverse = None
    if classes.loss.normalized:
        length = safe_norm(rows).astype(cos.dtype)
        inverse = safe_divide(jnp.ones_like(length), length)
        cos = cos * inverse[:, None]
    return Slice(start, rows, inverse, jnp.where(excluded, 0.0, cos), excluded)


def _product(
    classes: Classes, left: jax.Array, right: jax.Array, axes: tuple[int, int]
) -> jax.Array:
    """Multiplies over one axis of each, in the narrow dtype, summed in the wide one."""
    narrow = classes.dtype.dtype
    return jax.lax.dot_general(
        left.astype(narrow),
        right.astype(narrow),
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=classes.unit.dtype,
    )


def compare(classes: Classes, part: Slice) -> jax.Array:
    """Gives the values of the other classes, ``[rows, batch]``; 0 where excluded."""
    values = classes.loss.other(part.cos, as_row(classes.context))
    return jnp.where(part.excluded, 0.0, values)


def _other(cos: jax.Array, context: PyTree, loss: ClassLoss) -> jax.Array:
    return loss.other(cos, as_row(context))


def as_row(context: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None, :], context)


def pull_back(
    classes: Classes,
    part: Slice,
    weigh: Callable[[jax.Array], jax.Array],
    *,
    with_loss: bool,
) -> tuple[jax.Array, Gradients]:
    """Gives the values of the other classes and the gradients of their weighted sum.

    `weigh` turns the values ``[rows, batch]`` into the cotangent of each.
    """
    context, loss = classes.context, classes.loss
    if with_loss:
        values, pull = jax.vjp(_other, part.cos, context, loss)
    else:
        of_sample = lambda cos, context: _other(cos, context, loss)
        values, pull = jax.vjp(of_sample, part.cos, context)
    slope, *rest = pull(jnp.where(part.excluded, 0.0, weigh(values)))
    d_rows = _product(classes, slope, classes.unit, (1, 0))
    scaled = slope
    if part.inverse is not None:
        scaled = slope * part.inverse[:, None]
        radial = jnp.sum(slope * part.cos, axis=1) * part.inverse
        rows = part.rows.astype(d_rows.dtype)
        d_rows = part.inverse[:, None] * (d_rows - radial[:, None] * rows)
    gradients = Gradients(
        unit=_product(classes, scaled, part.rows, (0, 0)),
        context=rest[0],
        loss=rest[1] if with_loss else None,
        class_weights=d_rows.astype(part.rows.dtype),
    )
    return jnp.where(part.excluded, 0.0, values), gradients


def known(tree: PyTree) -> PyTree:
    """Strips what a custom derivative is told of its inputs down to their values."""
    return jax.tree.map(lambda leaf: leaf.value, tree)


def zeros(classes: Classes, *, with_loss: bool) -> Gradients:
    """The gradients before the first slice."""
    blank = lambda tree: match_varying(jax.tree.map(jnp.zeros_like, tree), classes.unit)
    return Gradients(
        unit=blank(classes.unit),
        context=blank(classes.context),
        loss=blank(classes.loss) if with_loss else None,
        class_weights=blank(classes.class_weights),
    )


def scan(
    plan: Plan,
    classes: Classes,
    add: Callable[[Any, Slice], Any],
    init: Any,
) -> Any:
    """Adds up sums over all slices, without gradients of its own."""
    count, size = geometry(classes.class_weights.shape[0], plan.chunk)
    step = lambda sums, index: (add(sums, cut(classes, index, size)), None)
    if not plan.by_hand:
        step = jax.checkpoint(step, prevent_cse=False)
    init = match_varying(init, classes.unit)
    return jax.lax.scan(step, init, jnp.arange(count))[0]


def sweep(
    step: Callable[[jax.Array], tuple[Any, jax.Array, Gradients]],
    init: tuple[Any, Gradients],
    size: int,
    count: jax.Array | int,
) -> tuple[Any, Gradients]:
    """Adds up the sums and gradients of `count` slices; rows are written in place.

    `step` gives the sums of a slice, its first row and its gradients.
    """

    def body(index: jax.Array, carry: tuple[Any, Gradients]) -> tuple[Any, Gradients]:
        sums, total = carry
        new, start, gradients = step(index)
        rows = replace_rows(
            total.class_weights, gradients.class_weights, start, index * size
        )
        add = lambda a, b: jax.tree.map(jnp.add, a, b)
        unit, context, loss = add(total[:3], gradients[:3])
        return add(sums, new), Gradients(unit, context, loss, rows)

    return jax.lax.fori_loop(0, count, body, init)


def replace_rows(
    whole: jax.Array, rows: jax.Array, start: jax.Array, begin: jax.Array
) -> jax.Array:
    """Writes rows from `start` on in place, but for those before `begin`."""
    size = rows.shape[0]
    if whole.shape[0] % size:
        # The last slice begins with rows that have their gradient already.
        old = jax.lax.dynamic_slice_in_dim(whole, start, size)
        seen = start + jnp.arange(size) < begin
        rows = jnp.where(seen[:, None], old, rows)
    return jax.lax.dynamic_update_slice_in_dim(whole, rows, start, 0)
