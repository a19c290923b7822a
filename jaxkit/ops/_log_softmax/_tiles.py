"""Sums over a vocabulary, tile by tile, that no logit outlives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit.ops._log_softmax._inputs import Head
from jaxkit.ops._sharding import match_varying

__all__ = ["Sums", "choose_tile", "combine_devices", "scan_tokens", "scan_vocabulary"]

_LOWEST = -1e30
"""Where maxima start and what -inf becomes: inf - inf would be NaN."""
_MAX_TILE = 8192
_MIN_TILE = 512
_MAX_LOGITS = 2**23
"""Most logits alive at a time, as long as the tiles are wider than the least."""
_TOKEN_TILE = 256
"""Tokens that are skipped or not as one."""


class Sums(NamedTuple):
    """What is kept of the logits ``z`` of every token, with ``m`` their maximum.

    Attributes:
      maximum: ``m``, without a gradient.
      exponentials: the sum of ``e^(z - m)``.
      target: the logit of the label.
      first_moment: the sum of ``(z - m) e^(z - m)``, if statistics are asked for.
      squares: the sum of ``e^(2 (z - m))``, if statistics are asked for.
    """

    maximum: jax.Array
    exponentials: jax.Array
    target: jax.Array
    first_moment: jax.Array | None = None
    squares: jax.Array | None = None


def choose_tile(vocabulary: int, num_tokens: int) -> int:
    """The width of a tile: a divisor of the vocabulary unless all are narrow."""
    cap = min(_MAX_TILE, max(_MIN_TILE, _MAX_LOGITS // max(num_tokens, 1)))
    if vocabulary <= cap:
        return vocabulary
    divisor = max(d for d in range(1, cap + 1) if vocabulary % d == 0)
    return divisor if divisor * 8 >= cap else cap


def scan_vocabulary(head: Head, tile: int, *, statistics: bool) -> Sums:
    """Adds up the tiles of the vocabulary; in reverse they are computed again."""
    sums = _start(head, statistics)
    if tile == head.vocabulary:
        return _add(sums, _logits(head, 0, tile), head.labels)

    def step(sums: Sums, index: jax.Array) -> tuple[Sums, None]:
        begin = index * tile
        # The last tile of a vocabulary that it does not divide begins earlier.
        start = jnp.minimum(begin, head.vocabulary - tile)
        logits = _logits(head, start, tile)
        if head.vocabulary % tile:
            new = start + jnp.arange(tile) >= begin
            logits = jnp.where(new[None, :], logits, _LOWEST)
        # A label in the columns before has been found already.
        labels = jnp.where(head.labels >= begin, head.labels - start, -1)
        return _add(sums, logits, labels), None

    count = -(-head.vocabulary // tile)
    return jax.lax.scan(jax.checkpoint(step), sums, jnp.arange(count))[0]


def _start(head: Head, statistics: bool) -> Sums:
    zeros = jnp.zeros_like(head.hidden, shape=head.labels.shape)
    extra = (zeros, zeros) if statistics else (None, None)
    sums = Sums(jnp.full_like(zeros, _LOWEST), zeros, zeros, *extra)
    for like in (head.hidden, head.weight, head.labels, head.bias, head.temperature):
        sums = sums if like is None else match_varying(sums, like)
    return sums


def _logits(head: Head, start: jax.Array | int, tile: int) -> jax.Array:
    """The logits ``[N, tile]`` of a part of the vocabulary."""
    weight = jax.lax.dynamic_slice_in_dim(head.weight, start, tile, head.vocab_axis)
    logits = jax.lax.dot_general(
        head.hidden.astype(head.product_dtype),
        weight.astype(head.product_dtype),
        (((1,), (1 - head.vocab_axis,)), ((), ())),
        precision=head.precision,
        preferred_element_type=head.hidden.dtype,
    )
    if head.bias is not None:
        bias = jax.lax.dynamic_slice_in_dim(head.bias, start, tile)
        logits = logits + bias[None, :]
    if head.logit_softcap is not None:
        logits = head.logit_softcap * jnp.tanh(logits / head.logit_softcap)
    return logits / head.temperature


def _add(sums: Sums, logits: jax.Array, labels: jax.Array) -> Sums:
    """Adds a tile; `labels` count from its first column."""
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=1))
    maximum = jnp.maximum(sums.maximum, largest)
    ratio = jnp.exp(sums.maximum - maximum)
    shifted = logits - maximum[:, None]
    powers = jnp.exp(shifted)
    is_label = jnp.arange(logits.shape[1])[None, :] == labels[:, None]
    target = sums.target + jnp.sum(jnp.where(is_label, logits, 0.0), axis=1)
    exponentials = sums.exponentials * ratio + jnp.sum(powers, axis=1)
    if sums.first_moment is None:
        return Sums(maximum, exponentials, target)
    moved = sums.first_moment + (sums.maximum - maximum) * sums.exponentials
    moment = jnp.sum(jnp.maximum(shifted, _LOWEST) * powers, axis=1)
    return Sums(
        maximum,
        exponentials,
        target,
        moved * ratio + moment,
        sums.squares * ratio**2 + jnp.sum(powers**2, axis=1),
    )


def combine_devices(sums: Sums, axis_name: str) -> Sums:
    """Adds up the sums of devices that hold parts of one vocabulary."""
    maximum = jax.lax.pmax(jax.lax.stop_gradient(sums.maximum), axis_name)
    shift = sums.maximum - maximum
    ratio = jnp.exp(shift)
    add = lambda value: jax.lax.psum(value, axis_name)
    exponentials, target = add(sums.exponentials * ratio), add(sums.target)
    if sums.first_moment is None:
        return Sums(maximum, exponentials, target)
    moved = (sums.first_moment + shift * sums.exponentials) * ratio
    squares = sums.squares * ratio**2
    return Sums(maximum, exponentials, target, add(moved), add(squares))


def scan_tokens(
    head: Head, valid: jax.Array, chunk_size: int | None, *, statistics: bool
) -> Sums:
    """As `scan_vocabulary`, but leaves out tiles of tokens that do not count."""
    count = valid.shape[0]
    tile = min(_TOKEN_TILE, count)
    num_tiles = -(-count // tile)
    order = jnp.argsort(~valid, stable=True)
    # Positions beyond the last token repeat it; they are cut off again below.
    spread = jnp.minimum(jnp.arange(num_tiles * tile), count - 1)
    order = order[spread].reshape(num_tiles, tile)
    num_valid = jnp.sum(valid, dtype=jnp.int32)
    width = chunk_size or choose_tile(head.vocabulary, tile)
    skipped = _start(head._replace(labels=head.labels[:tile]), statistics)
    skipped = skipped._replace(exponentials=skipped.exponentials + 1.0)

    def step(_: None, xs: tuple[jax.Array, jax.Array]) -> tuple[None, Sums]:
        first, rows = xs
        part = head._replace(hidden=head.hidden[rows], labels=head.labels[rows])
        run = lambda: scan_vocabulary(part, width, statistics=statistics)
        return None, jax.lax.cond(first < num_valid, run, lambda: skipped)

    starts = jnp.arange(num_tiles, dtype=jnp.int32) * tile
    _, sums = jax.lax.scan(step, None, (starts, order))
    back = jnp.argsort(order.reshape(-1)[:count])
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[:count][back], sums)
