"""Log-probabilities and statistics of tokens from hidden states, without logits."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.ops._log_softmax._inputs import prepare
from jaxkit.ops._log_softmax._tiles import (
    Sums,
    choose_tile,
    combine_devices,
    scan_vocabulary,
    sum_valid,
)
from jaxkit.ops._masking import masked_fill
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["TokenStatistics", "linear_selected_log_probs", "token_statistics"]

_STATIC = ("vocab_axis", "chunk_size", "skip_masked", "axis_name", "precision")


class TokenStatistics(NamedTuple):
    """Statistics of the distribution ``p`` of every token.

    Attributes:
      log_probs: log-probability of the label.
      entropy: ``-sum p log p``, in nats.
      log_sum_sq_probs: ``log sum p^2``, minus the collision entropy.
      is_top1: whether no other class is more probable than the label; ties count.
    """

    log_probs: jax.Array
    entropy: jax.Array
    log_sum_sq_probs: jax.Array
    is_top1: jax.Array


@jit(static_argnames=_STATIC)
def linear_selected_log_probs(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    vocab_axis: int = 0,
    temperature: ArrayLike = 1.0,
    logit_softcap: ArrayLike | None = None,
    chunk_size: int | None = None,
    skip_masked: bool = False,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-probabilities of tokens straight from hidden states, without logits.

    .. math::
        z_n = \frac{\operatorname{cap}(W h_n + b)}{\text{temperature}}, \qquad
        y_n = z_{n, \ell_n} - \log \sum_v e^{z_{nv}}

    where ``cap(u)`` is ``c tanh(u / c)`` for ``logit_softcap=c`` and ``u`` otherwise.

    The vocabulary is cut into tiles, so that only the logits of one tile exist at a
    time; the gradient computes each tile again. That is a product more than the
    three that keep all logits. Derivatives of every order and mode work.

    Every tile takes all tokens, and becomes narrower, down to 512 columns, as they
    become more. Cutting the tokens as well would make the compiler gather a batch
    that is spread over devices; as it is, no hidden state moves under ``jit`` with
    the batch sharded. A weight sharded along the vocabulary would be gathered: use
    ``axis_name`` inside :func:`jax.shard_map`.

    Args:
      hidden: the last hidden states, shape ``[..., D]``. The state at position ``t``
        predicts the token at ``t + 1``: shift the labels.
      weight: ``W``, shape ``[V, D]`` as in an embedding, or ``[D, V]`` as in a dense
        layer with ``vocab_axis=1``.
      labels: ``l``, integers ``[...]``. Negative ones are masked; one of ``V`` or
        more gives NaN.
      bias: ``b``, shape ``[V]``.
      vocab_axis: which axis of ``weight`` counts the vocabulary, 0 or 1.
      temperature: positive scalar that divides the logits.
      logit_softcap: positive scalar ``c``; None means no cap.
      chunk_size: columns of a tile. ``V`` keeps all logits, as the plain formula does.
        None takes the largest divisor of ``V`` within a limit that falls with the
        number of tokens, or the limit itself where no divisor comes near.
      skip_masked: whether to leave out tokens that do not count, in tiles of tokens.
        With most of them masked it saves their share of the time, but costs a second
        buffer of the size of ``weight`` in reverse. With a sharded batch call it
        inside :func:`jax.shard_map`: under ``jit`` alone it gathers all tokens.
      axis_name: inside :func:`jax.shard_map`, the mesh axis over which the vocabulary
        axes of ``weight`` and ``bias`` are spread; ``labels`` stay global.
      precision: of the matrix products; None is the default of the backend, which may
        be less than float32 on accelerators.
      where: which tokens count, bool, broadcastable to ``[...]``; None means all. The
        hidden states of the others may be NaN and get no gradient.

    Returns:
      The log-probabilities ``[...]``, at least float32; 0 where masked.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit, or ``vocab_axis`` or ``chunk_size`` is out
        of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> hidden, weight = jnp.ones((3, 2)), jnp.zeros((5, 2))
      >>> labels = jnp.array([4, 0, -100])
      >>> print(ops.linear_selected_log_probs(hidden, weight, labels))
      [-1.609438 -1.609438  0.      ]

    References:
      Milakov and Gimelshein, *Online normalizer calculation for softmax*, 2018;
      Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, ICLR 2025.
    """
    sums, mask = _token_sums(
        hidden,
        weight,
        labels,
        bias=bias,
        vocab_axis=vocab_axis,
        temperature=temperature,
        logit_softcap=logit_softcap,
        chunk_size=chunk_size,
        skip_masked=skip_masked,
        axis_name=axis_name,
        precision=precision,
        where=where,
        statistics=False,
    )
    return _restore(_log_probs(sums), mask)


@jit(static_argnames=_STATIC)
def token_statistics(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    vocab_axis: int = 0,
    temperature: ArrayLike = 1.0,
    logit_softcap: ArrayLike | None = None,
    chunk_size: int | None = None,
    skip_masked: bool = False,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
) -> TokenStatistics:
    r"""Log-probability, entropy and more of every token, without logits.

    .. math::
        y_n = \log p_{n, \ell_n}, \qquad
        H_n = -\sum_v p_{nv} \log p_{nv}, \qquad
        q_n = \log \sum_v p_{nv}^2

    for the distribution ``p`` of :func:`linear_selected_log_probs`, in one scan over
    the vocabulary. All but ``is_top1`` have gradients.

    Args:
      hidden: the last hidden states, shape ``[..., D]``.
      weight: shape ``[V, D]``, or ``[D, V]`` with ``vocab_axis=1``.
      labels: integers ``[...]``. Negative ones are masked; one of ``V`` or more gives
        NaN, and False for ``is_top1``.
      bias: shape ``[V]``.
      vocab_axis: which axis of ``weight`` counts the vocabulary, 0 or 1.
      temperature: positive scalar that divides the logits.
      logit_softcap: positive scalar; None means no cap.
      chunk_size: columns of a tile; see :func:`linear_selected_log_probs`.
      skip_masked: whether to leave out tokens that do not count.
      axis_name: the mesh axis over which the vocabulary is spread.
      precision: of the matrix products.
      where: which tokens count, bool, broadcastable to ``[...]``; None means all.

    Returns:
      The statistics, each ``[...]``, at least float32; 0 and False where masked.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit, or ``vocab_axis`` or ``chunk_size`` is out
        of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> weight = jnp.log(jnp.array([[0.5], [0.25], [0.25]]))
      >>> out = ops.token_statistics(jnp.ones((1, 1)), weight, jnp.array([0]))
      >>> print(out.entropy / jnp.log(2.0), jnp.exp(out.log_sum_sq_probs), out.is_top1)
      [1.5] [0.375] [ True]
    """
    sums, mask = _token_sums(
        hidden,
        weight,
        labels,
        bias=bias,
        vocab_axis=vocab_axis,
        temperature=temperature,
        logit_softcap=logit_softcap,
        chunk_size=chunk_size,
        skip_masked=skip_masked,
        axis_name=axis_name,
        precision=precision,
        where=where,
        statistics=True,
    )
    log_normalizer = jnp.log(sums.exponentials)
    first, squares = cast(tuple[jax.Array, jax.Array], sums.moments)
    return TokenStatistics(
        log_probs=_restore(_log_probs(sums), mask),
        entropy=_restore(log_normalizer - first / sums.exponentials, mask),
        log_sum_sq_probs=_restore(jnp.log(squares) - 2 * log_normalizer, mask),
        is_top1=(sums.target >= sums.maximum).reshape(mask.shape) & mask,
    )


def _token_sums(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None,
    vocab_axis: int,
    temperature: ArrayLike,
    logit_softcap: ArrayLike | None,
    chunk_size: int | None,
    skip_masked: bool,
    axis_name: str | None,
    precision: PrecisionLike,
    where: ArrayLike | None,
    statistics: bool,
) -> tuple[Sums, jax.Array]:
    head, mask = prepare(
        hidden,
        weight,
        labels,
        bias=bias,
        vocab_axis=vocab_axis,
        temperature=temperature,
        logit_softcap=logit_softcap,
        chunk_size=chunk_size,
        axis_name=axis_name,
        precision=precision,
        where=where,
    )
    if skip_masked and mask.size:
        sums = sum_valid(head, mask.reshape(-1), chunk_size, statistics=statistics)
    else:
        tile = chunk_size or choose_tile(head.vocabulary, mask.size)
        sums = scan_vocabulary(head, tile, statistics=statistics)
    if axis_name is not None:
        sums = combine_devices(sums, axis_name)
    sums = sums._replace(target=jnp.where(head.known, sums.target, jnp.nan))
    # Nothing has been added for tokens left out, and the log of 0 has no slope.
    fill = lambda leaf: masked_fill(leaf, mask.reshape(-1), fill=1.0)
    return jax.tree.map(fill, sums), mask


def _log_probs(sums: Sums) -> jax.Array:
    return sums.target - sums.maximum - jnp.log(sums.exponentials)


def _restore(values: jax.Array, mask: jax.Array) -> jax.Array:
    return masked_fill(values.reshape(mask.shape), mask)
