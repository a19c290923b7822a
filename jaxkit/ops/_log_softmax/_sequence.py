"""Sums of token log-probabilities over sequences and over packed segments."""

import math

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops._masking import masked_fill, masked_mean, masked_sum
from jaxkit.typing import ArrayLike

__all__ = ["segment_log_probs", "sequence_log_probs"]


@jit(static_argnames=("axis", "length_normalize"))
def sequence_log_probs(
    token_log_probs: ArrayLike,
    *,
    axis: int = -1,
    length_normalize: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-probability of each sequence, from those of its tokens.

    .. math:: \log \pi(y) = \sum_t w_t \log \pi(y_t)

    With ``length_normalize`` it is divided by the number of tokens that count, at
    least 1. A sequence in which nothing counts gives 0: leave it out of the mean of a
    loss by the mask of the loss.

    Args:
      token_log_probs: log-probabilities of tokens, shape ``[..., T]``.
      axis: the axis of the tokens.
      length_normalize: whether to divide by the number of tokens.
      where: which tokens count, bool, broadcastable to ``[..., T]``: True for the
        tokens of the answer, False for prompt and padding, which may hold NaN.

    Returns:
      Shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``token_log_probs`` is not floating, or ``where`` not bool.
      ValueError: if ``axis`` is out of range or ``where`` does not broadcast.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> token_log_probs = jnp.array([[-1.0, -2.0, -3.0]])
      >>> answer = jnp.array([[False, True, True]])
      >>> print(ops.sequence_log_probs(token_log_probs, where=answer))
      [-5.]
      >>> print(
      ...     ops.sequence_log_probs(
      ...         token_log_probs, length_normalize=True, where=answer
      ...     )
      ... )
      [-2.5]
    """
    (values,) = checks.floating(token_log_probs=token_log_probs)
    if not -values.ndim <= axis < values.ndim:
        raise ValueError(
            f"`axis` must be an axis of `token_log_probs` of shape {values.shape}, "
            f"got {axis}."
        )
    reduce = masked_mean if length_normalize else masked_sum
    return reduce(values, axis=axis, where=where)


@jit(static_argnames=("num_segments",))
def segment_log_probs(
    token_log_probs: ArrayLike,
    segment_ids: ArrayLike,
    *,
    num_segments: int,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-probabilities of several answers that are packed into one row.

    .. math:: \log \pi(y_s) = \sum_{t : s_t = s} w_t \log \pi(y_t)

    Args:
      token_log_probs: log-probabilities of tokens, shape ``[..., T]``.
      segment_ids: which answer a token belongs to, integers ``[..., T]`` that count
        from 0 in each row. Negative ones are padding, and so are those of
        ``num_segments`` or more.
      num_segments: ``S``, the most answers in a row.
      where: which tokens count, bool, broadcastable to ``[..., T]``; the others, and
        padding, may hold NaN.

    Returns:
      Shape ``[..., S]``, at least float32; 0 for an answer without tokens.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit or ``num_segments`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> token_log_probs = jnp.array([-1.0, -2.0, -4.0, -8.0])
      >>> ids = jnp.array([0, 0, 1, -1])
      >>> print(ops.segment_log_probs(token_log_probs, ids, num_segments=2))
      [-3. -4.]
    """
    (values,) = checks.floating(token_log_probs=token_log_probs)
    checks.min_ndim("token_log_probs", values, 1)
    checks.at_least("num_segments", num_segments, 1)
    ids = jnp.asarray(segment_ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`segment_ids` must have an integer dtype, got {ids.dtype}.")
    checks.same_shape(token_log_probs=values, segment_ids=ids)
    values = values.astype(accumulation_dtype(values))
    ids = ids.astype(int)
    inside = (ids >= 0) & (ids < num_segments)
    values = masked_fill(masked_fill(values, where), inside)
    # Padding adds a 0, wherever it goes.
    rows = math.prod(ids.shape[:-1]), ids.shape[-1]
    flat_ids = jnp.where(inside, ids, 0).reshape(rows)
    row_sum = lambda v, i: jax.ops.segment_sum(v, i, num_segments=num_segments)
    sums = jax.vmap(row_sum)(values.reshape(rows), flat_ids)
    return sums.reshape(*values.shape[:-1], num_segments)
