"""Log-probabilities of answers from any model that returns hidden states."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit.ops import linear_selected_log_probs, sequence_log_probs
from jaxkit.typing import ArrayLike

__all__ = [
    "HiddenFn",
    "answer_log_probs",
    "answer_token_log_probs",
    "pair_log_probs",
    "precompute_ref_logps",
]


class HiddenFn(Protocol):
    """A model without its head, as the functions below call it.

    ``hidden_fn(tokens, positions, mask)`` takes tokens and their positions, integers
    ``[batch, time]``, and which tokens are no padding, bool ``[batch, time]``. It
    returns hidden states ``[batch, time, dim]``; the one at ``t`` depends on the
    tokens up to ``t`` that are no padding, and predicts token ``t + 1`` through the
    weight of the head, ``[vocabulary, dim]`` or (``vocab_axis=1``)
    ``[dim, vocabulary]``. Close over the parameters:

    ``lambda *inputs: apply(params, *inputs)``
    """

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, mask: jax.Array, /
    ) -> jax.Array:
        """Maps tokens, positions and mask to hidden states."""
        ...


def answer_token_log_probs(
    hidden_fn: HiddenFn,
    head_weight: ArrayLike,
    tokens: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    where: ArrayLike,
    **options: Any,
) -> jax.Array:
    r"""Scores each token of the answers given all tokens before it.

    .. math:: \ell_{t} = \log \mathrm{softmax}(W h_t)_{y_{t+1}}

    One forward pass and the head of
    :func:`jaxkit.ops.linear_selected_log_probs`, which never builds the logits of the
    batch. Entry ``t`` belongs to token ``t + 1``: the first token has no prediction.

    Args:
      hidden_fn: the model without its head, see :class:`HiddenFn`.
      head_weight: the head, ``[vocabulary, dim]``, or ``[dim, vocabulary]`` with
        ``vocab_axis=1``.
      tokens: prompts and answers in one row each, integers ``[batch, time]``.
      positions: position of each token, integers ``[batch, time]``; None counts the
        tokens that are no padding.
      mask: which tokens are no padding, bool ``[batch, time]``; None means all up to
        the last one of the answer, which fits padding on the right. **Padding on the
        left needs it.**
      where: which tokens belong to the answer, bool ``[batch, time]``.
      options: keyword arguments of :func:`jaxkit.ops.linear_selected_log_probs`, such
        as ``bias``, ``vocab_axis``, ``temperature``, ``logit_softcap``,
        ``chunk_size``, ``skip_masked``.

    Returns:
      Log-probabilities, shape ``[batch, time - 1]``, at least float32; 0 outside the
      answer.

    Raises:
      TypeError: if ``tokens`` are not integers or a mask is not bool.
      ValueError: if ``tokens`` is not a matrix with two columns or more, or another
        array not of its shape.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> table = jnp.eye(4)
      >>> hidden_fn = lambda tokens, positions, mask: table[tokens]
      >>> logps = jaxkit.preference.answer_token_log_probs(
      ...     hidden_fn,
      ...     jnp.zeros((4, 4)),
      ...     jnp.array([[0, 1, 2]]),
      ...     where=jnp.array([[False, False, True]]),
      ... )
      >>> print(logps)
      [[ 0.        -1.3862944]]

    References:
      Rafailov et al., *Direct Preference Optimization*, NeurIPS 2023, section 4.
    """
    tokens, where = _tokens(tokens), _mask("where", where)
    checks.same_shape(tokens=tokens, where=where)
    seen = _up_to_last(where) if mask is None else _mask("mask", mask)
    checks.same_shape(tokens=tokens, mask=seen)
    # Tokens outside are often -100 or anything; no table need know them.
    tokens = jnp.where(seen, tokens, 0)
    if positions is None:
        places = jnp.maximum(jnp.cumsum(seen, axis=-1, dtype=jnp.int32) - 1, 0)
    else:
        places = jnp.asarray(positions)
        checks.same_shape(tokens=tokens, positions=places)
    hidden = hidden_fn(tokens, places, seen)
    return linear_selected_log_probs(
        hidden[:, :-1],
        head_weight,
        tokens[:, 1:],
        where=where[:, 1:] & seen[:, 1:],
        **options,
    )


def answer_log_probs(
    hidden_fn: HiddenFn,
    head_weight: ArrayLike,
    tokens: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    length_normalize: bool = False,
    where: ArrayLike,
    **options: Any,
) -> jax.Array:
    r"""Scores whole answers: the log-probability of all their tokens.

    .. math:: \log \pi(y \mid x) = \sum_{t : w_{t+1}} \ell_t

    The sum over :func:`answer_token_log_probs`. Score policy and reference through
    the same call, with the same options: at equal parameters their difference is
    then exactly 0.

    Args:
      hidden_fn: the model without its head, see :class:`HiddenFn`.
      head_weight: the head, ``[vocabulary, dim]``, or ``[dim, vocabulary]`` with
        ``vocab_axis=1``.
      tokens: prompts and answers in one row each, integers ``[batch, time]``.
      positions: position of each token, integers ``[batch, time]``; None counts the
        tokens that are no padding.
      mask: which tokens are no padding, bool ``[batch, time]``; None means all up to
        the last one of the answer. **Padding on the left needs it.**
      length_normalize: whether to average over the tokens of the answer.
      where: which tokens belong to the answer, bool ``[batch, time]``.
      options: keyword arguments of :func:`jaxkit.ops.linear_selected_log_probs`.

    Returns:
      Log-probabilities, shape ``[batch]``, at least float32; 0 for an empty answer.

    Raises:
      TypeError: if ``tokens`` are not integers or a mask is not bool.
      ValueError: if ``tokens`` is not a matrix with two columns or more, or another
        array not of its shape.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> table = jnp.eye(4)
      >>> logps = jaxkit.preference.answer_log_probs(
      ...     lambda tokens, positions, mask: table[tokens],
      ...     jnp.zeros((4, 4)),
      ...     jnp.array([[0, 1, 2]]),
      ...     where=jnp.array([[False, True, True]]),
      ... )
      >>> print(logps)
      [-2.7725887]

    References:
      Rafailov et al., *Direct Preference Optimization*, NeurIPS 2023, section 4.
    """
    token_log_probs = answer_token_log_probs(
        hidden_fn,
        head_weight,
        tokens,
        positions=positions,
        mask=mask,
        where=where,
        **options,
    )
    return sequence_log_probs(
        token_log_probs,
        length_normalize=length_normalize,
        where=jnp.asarray(where)[:, 1:],
    )


def pair_log_probs(
    hidden_fn: HiddenFn,
    head_weight: ArrayLike,
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    chosen_where: ArrayLike,
    rejected_where: ArrayLike,
    chosen_mask: ArrayLike | None = None,
    rejected_mask: ArrayLike | None = None,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    r"""Scores chosen and rejected answers in one forward pass.

    .. math:: \bigl(\log \pi(y_w \mid x), \; \log \pi(y_l \mid x)\bigr)

    Both go through the model as one batch of twice the size. The result fills the
    first two fields of :class:`PairLogps`, or with the parameters of the reference
    the last two.

    Args:
      hidden_fn: the model without its head, see :class:`HiddenFn`.
      head_weight: the head, see :func:`answer_log_probs`.
      chosen: prompts and chosen answers, integers ``[batch, time]``.
      rejected: prompts and rejected answers, of the same shape.
      chosen_where: which tokens belong to the chosen answer, bool.
      rejected_where: which tokens belong to the rejected answer, bool.
      chosen_mask: which tokens of ``chosen`` are no padding; None as in
        :func:`answer_log_probs`.
      rejected_mask: the same for ``rejected``; give both or none.
      options: other keyword arguments of :func:`answer_log_probs`.

    Returns:
      Log-probabilities of the chosen and of the rejected answers, ``[batch]`` each.

    Raises:
      ValueError: if the shapes differ or only one mask is given.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> table = jnp.eye(4)
      >>> chosen, rejected = jaxkit.preference.pair_log_probs(
      ...     lambda tokens, positions, mask: table[tokens],
      ...     jnp.zeros((4, 4)),
      ...     jnp.array([[0, 1, 2]]),
      ...     jnp.array([[0, 3, 0]]),
      ...     chosen_where=jnp.array([[False, True, True]]),
      ...     rejected_where=jnp.array([[False, True, False]]),
      ... )
      >>> print(chosen, rejected)
      [-2.7725887] [-1.3862944]

    References:
      Rafailov et al., *Direct Preference Optimization*, NeurIPS 2023, section 4.
    """
    chosen, rejected = _tokens(chosen, "chosen"), _tokens(rejected, "rejected")
    checks.same_shape(chosen=chosen, rejected=rejected)
    if (chosen_mask is None) != (rejected_mask is None):
        raise ValueError("`chosen_mask` and `rejected_mask` must come together.")
    where = _stack(
        _mask("chosen_where", chosen_where), _mask("rejected_where", rejected_where)
    )
    mask = None
    if chosen_mask is not None and rejected_mask is not None:
        mask = _stack(
            _mask("chosen_mask", chosen_mask), _mask("rejected_mask", rejected_mask)
        )
    logps = answer_log_probs(
        hidden_fn,
        head_weight,
        _stack(chosen, rejected),
        mask=mask,
        where=where,
        **options,
    )
    return logps[: chosen.shape[0]], logps[chosen.shape[0] :]


def precompute_ref_logps(
    hidden_fn: HiddenFn,
    head_weight: ArrayLike,
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    chosen_where: ArrayLike,
    rejected_where: ArrayLike,
    chosen_mask: ArrayLike | None = None,
    rejected_mask: ArrayLike | None = None,
    batch_size: int,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    r"""Scores a whole data set under the reference, batch by batch.

    .. math:: \bigl(\log \pi_{\mathrm{ref}}(y_w \mid x), \;
       \log \pi_{\mathrm{ref}}(y_l \mid x)\bigr)

    The reference does not change in training, so two numbers a pair replace its
    forward passes. A scan over batches, without gradients; jit it.

    Args:
      hidden_fn: the reference without its head, see :class:`HiddenFn`.
      head_weight: the head of the reference, see :func:`answer_log_probs`.
      chosen: prompts and chosen answers, integers ``[pairs, time]``.
      rejected: prompts and rejected answers, of the same shape.
      chosen_where: which tokens belong to the chosen answer, bool.
      rejected_where: which tokens belong to the rejected answer, bool.
      chosen_mask: see :func:`pair_log_probs`.
      rejected_mask: see :func:`pair_log_probs`.
      batch_size: pairs per forward pass; the last batch is filled up with padding.
      options: other keyword arguments of :func:`answer_log_probs`.

    Returns:
      Reference log-probabilities of the chosen and of the rejected answers,
      ``[pairs]`` each: the last two fields of :class:`PairLogps`.

    Raises:
      ValueError: if ``batch_size < 1``, the shapes differ, or only one mask is given.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jaxkit
      >>> table = jnp.eye(4)
      >>> answers = jnp.array([[0, 1], [0, 2], [0, 3]])
      >>> where = jnp.array([[False, True]] * 3)
      >>> ref_chosen, ref_rejected = jaxkit.preference.precompute_ref_logps(
      ...     lambda tokens, positions, mask: table[tokens],
      ...     jnp.zeros((4, 4)),
      ...     answers,
      ...     answers[::-1],
      ...     chosen_where=where,
      ...     rejected_where=where,
      ...     batch_size=2,
      ... )
      >>> print(ref_chosen)
      [-1.3862944 -1.3862944 -1.3862944]

    References:
      Rafailov et al., *Direct Preference Optimization*, NeurIPS 2023, section 4.
    """
    checks.at_least("batch_size", batch_size, 1)
    chosen, rejected = _tokens(chosen, "chosen"), _tokens(rejected, "rejected")
    checks.same_shape(chosen=chosen, rejected=rejected)
    rows = {
        "chosen": chosen,
        "rejected": rejected,
        "chosen_where": _mask("chosen_where", chosen_where),
        "rejected_where": _mask("rejected_where", rejected_where),
        "chosen_mask": chosen_mask,
        "rejected_mask": rejected_mask,
    }
    for name, array in rows.items():
        if array is not None:
            checks.same_shape(**{"chosen": chosen, name: jnp.asarray(array)})
    count = chosen.shape[0]
    batches = jax.tree.map(lambda rows: _batches(rows, batch_size), rows)

    def score(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return pair_log_probs(hidden_fn, head_weight, **batch, **options)

    scores = jax.lax.map(score, batches)
    logps = [jax.lax.stop_gradient(s.reshape(-1)[:count]) for s in scores]
    return logps[0], logps[1]


def _tokens(tokens: ArrayLike, name: str = "tokens") -> jax.Array:
    array = jnp.asarray(tokens)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {array.dtype}.")
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(
            f"`{name}` must have shape (batch, time) with time >= 2, got {array.shape}."
        )
    return array


def _mask(name: str, mask: ArrayLike) -> jax.Array:
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(f"`{name}` must have dtype bool, got {array.dtype}.")
    return array


def _up_to_last(where: jax.Array) -> jax.Array:
    """Marks everything up to the last entry of a mask."""
    later = jax.lax.cumsum(where.astype(jnp.int32), axis=1, reverse=True)
    return later > 0


def _stack(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.concatenate([first, second])


def _batches(rows: ArrayLike, size: int) -> jax.Array:
    """Cuts rows into batches, the last one filled up with zeros."""
    array = jnp.asarray(rows)
    missing = -array.shape[0] % size
    padded = jnp.pad(array, ((0, missing), (0, 0)))
    return padded.reshape(-1, size, array.shape[1])
