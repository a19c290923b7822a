"""Sums over a vocabulary, tile by tile, that no logit outlives."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit.ops._log_softmax._inputs import Head
from jaxkit.ops._sharding import match_varying

__all__ = ["Sums", "choose_tile", "combine_devices", "scan_vocabulary", "sum_valid"]

_LOWEST = -1e30
"""Where maxima start and what -inf becomes: inf - inf would be NaN."""


class Sums(NamedTuple):
    """What is kept of the logits ``z`` of every token, with ``m`` their maximum.

    Attributes:
      maximum: ``m``, without a gradient.
      exponentials: the sum of ``e^(z - m)``.
      target: the logit of the label.
      moments: the sums of ``(z - m) e^(z - m)`` and of ``e^(2 (z - m))``, or None.
    """

    maximum: jax.Array
    exponentials: jax.Array
    target: jax.Array
    moments: tuple[jax.Array, jax.Array] | None


def choose_tile(vocabulary: int, num_tokens: int) -> int:
    """The width of a tile: a divisor of the vocabulary unless all are narrow.

    On a CPU a tile should stay in the cache, on an accelerator fill the machine.
    """
    logits = 2**21 if jax.default_backend() == "cpu" else 2**26
    widest = min(8192, max(512, logits // max(num_tokens, 1)))
    if vocabulary <= widest:
        return vocabulary
    divisor = max(d for d in range(1, widest + 1) if vocabulary % d == 0)
    if divisor * 2 >= widest:
        return divisor
    even = -(-vocabulary // -(-vocabulary // widest))
    return min(widest, -(-even // 64) * 64)


def scan_vocabulary(
    head: Head, tile: int, *, statistics: bool, live: jax.Array | None = None
) -> Sums:
    """Adds up the tiles of the vocabulary; in reverse they are computed again.

    With `live` of shape ``[M]`` the tokens come in as many groups, as a leading axis
    of the hidden states and labels, and the groups not alive are left out.
    """

    def step(sums: Sums, index: jax.Array | int) -> tuple[Sums, None]:
        part = _cut(head, index * tile, tile)
        if live is None:
            return _add(head, part, sums, head.hidden, head.labels), None
        # The gradients of the groups are added up in the wider dtype.
        wide = part._replace(weight=part.weight.astype(head.hidden.dtype))
        return _add_live(functools.partial(_add, head, wide), live, sums, head), None

    sums = _start(head, statistics)
    if tile == head.vocabulary:
        return step(sums, 0)[0]
    count = -(-head.vocabulary // tile)
    body = jax.checkpoint(step, prevent_cse=False)
    return jax.lax.scan(body, sums, jnp.arange(count))[0]


class _Tile(NamedTuple):
    """Some columns of the head; those already counted hold no label."""

    weight: jax.Array
    bias: jax.Array | None
    columns: jax.Array
    counted: jax.Array | None
    zero: jax.Array


def _cut(head: Head, begin: jax.Array | int, tile: int) -> _Tile:
    start, counted = begin, None
    if head.vocabulary % tile:
        # The last tile of a vocabulary that it does not divide begins earlier.
        start = jnp.minimum(begin, head.vocabulary - tile)
        counted = start + jnp.arange(tile) < begin
    bias = head.bias
    if bias is not None:
        bias = jax.lax.dynamic_slice_in_dim(bias, start, tile)
    return _Tile(
        weight=jax.lax.dynamic_slice_in_dim(head.weight, start, tile, head.vocab_axis),
        bias=bias,
        columns=start + jnp.arange(tile),
        counted=counted,
        # A zero of this step: the tile of a constant would be kept for all steps.
        zero=jnp.asarray(0 * begin, head.hidden.dtype),
    )


def _add_live(
    add: Callable[..., Sums], live: jax.Array, sums: Sums, head: Head
) -> Sums:
    # Of a branch, what its derivative needs is an output that a group not alive fills
    # with zeros: that shall be the inputs, not the larger logits.
    add = jax.checkpoint(add, prevent_cse=False)

    def group(_: None, xs: tuple) -> tuple[None, Sums]:
        alive, *rest = xs
        return None, jax.lax.cond(alive, add, lambda sums, *_: sums, *rest)

    xs = live, sums, head.hidden, head.labels
    return jax.lax.scan(jax.checkpoint(group, prevent_cse=False), None, xs)[1]


def _start(head: Head, statistics: bool) -> Sums:
    zeros = jnp.zeros_like(head.hidden, shape=head.labels.shape)
    moments = (zeros, zeros) if statistics else None
    sums = Sums(jnp.full_like(zeros, _LOWEST), zeros, zeros, moments)
    traced = (head.hidden, head.weight, head.labels, head.bias)
    for like in (*traced, head.inverse_temperature, head.logit_softcap):
        sums = sums if like is None else match_varying(sums, like)
    return sums


def _logits(head: Head, part: _Tile, hidden: jax.Array) -> jax.Array:
    """The logits ``[tile, N]``."""
    logits = _product(head, part.weight, hidden)
    if part.bias is not None:
        logits = logits + part.bias[:, None]
    if head.logit_softcap is not None:
        logits = head.logit_softcap * jnp.tanh(logits / head.logit_softcap)
    logits = logits * head.inverse_temperature
    if part.counted is None:
        return logits
    return jnp.where(part.counted[:, None], part.zero + _LOWEST, logits)


def _product(head: Head, weight: jax.Array, hidden: jax.Array) -> jax.Array:
    """Multiplies a tile of the weight by the tokens, whose gradient stays wide.

    In this order all products of the gradient run at the full speed of a CPU; the
    other way round that of the weight does not.
    """
    multiply = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=(((1 - head.vocab_axis,), (0,)), ((), ())),
        precision=head.precision,
        preferred_element_type=hidden.dtype,
    )
    narrow = lambda array: array.astype(head.product_dtype)
    if head.product_dtype == hidden.dtype:
        return multiply(narrow(weight), hidden)

    # The derivative of a cast would round the gradient of the tokens tile by tile,
    # and the sum of many rounded parts is biased.
    @jax.custom_jvp
    def product(weight: jax.Array, hidden: jax.Array) -> jax.Array:
        return multiply(narrow(weight), narrow(hidden))

    @product.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        (weight, hidden), (d_weight, d_hidden) = primals, tangents
        tangent = multiply(d_weight, narrow(hidden)) + multiply(
            narrow(weight), d_hidden
        )
        return product(weight, hidden), tangent

    return product(weight, hidden)


def _add(
    head: Head, part: _Tile, sums: Sums, hidden: jax.Array, labels: jax.Array
) -> Sums:
    logits = _logits(head, part, hidden)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=0))
    maximum = jnp.maximum(sums.maximum, largest)
    sums = _rescale(sums, maximum)
    shifted = logits - maximum[None, :]
    powers = jnp.exp(shifted)
    is_label = part.columns[:, None] == labels[None, :]
    if part.counted is not None:
        is_label &= ~part.counted[:, None]
    target = sums.target + jnp.sum(jnp.where(is_label, logits, part.zero), axis=0)
    moments = sums.moments
    if moments is not None:
        first, squares = moments
        # A logit may be -inf, and -inf times 0 is NaN.
        finite = jnp.maximum(shifted, part.zero + _LOWEST)
        first += jnp.sum(finite * powers, axis=0)
        moments = first, squares + jnp.sum(powers**2, axis=0)
    total = sums.exponentials + jnp.sum(powers, axis=0)
    return Sums(maximum, total, target, moments)


def _rescale(sums: Sums, maximum: jax.Array) -> Sums:
    """The same sums relative to another maximum."""
    shift = sums.maximum - maximum
    ratio = jnp.exp(shift)
    moments = sums.moments
    if moments is not None:
        first, squares = moments
        moments = (first + shift * sums.exponentials) * ratio, squares * ratio**2
    return Sums(maximum, sums.exponentials * ratio, sums.target, moments)


def combine_devices(sums: Sums, axis_name: str) -> Sums:
    """Adds up the sums of devices that hold parts of one vocabulary."""
    maximum = jax.lax.pmax(jax.lax.stop_gradient(sums.maximum), axis_name)
    _, *totals = _rescale(sums, maximum)
    return Sums(maximum, *jax.lax.psum(totals, axis_name))


def sum_valid(
    head: Head, valid: jax.Array, chunk_size: int | None, *, statistics: bool
) -> Sums:
    """As `scan_vocabulary`, but leaves out groups of tokens that do not count."""
    count = valid.shape[0]
    size = min(_group_size(), count)
    groups = -(-count // size)
    order = jnp.argsort(~valid, stable=True)
    # The last group repeats the last token, where there are too few.
    rows = order[jnp.minimum(jnp.arange(groups * size), count - 1)]
    first = jnp.arange(groups) * size
    grouped = head._replace(
        hidden=head.hidden[:, rows].reshape(-1, groups, size).swapaxes(0, 1),
        labels=head.labels[rows].reshape(groups, size),
    )
    sums = scan_vocabulary(
        grouped,
        chunk_size or choose_tile(head.vocabulary, count),
        statistics=statistics,
        live=first < jnp.sum(valid),
    )
    place = jnp.argsort(order)
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[place], sums)


def _group_size() -> int:
    # Each group adds to the gradient of the tile: fewer would read it too often.
    return 1024 if jax.default_backend() == "cpu" else 2048
