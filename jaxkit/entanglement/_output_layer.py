"""Inner products of token gradients from hidden states alone."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill, safe_divide
from jaxkit.typing import ArrayLike

__all__ = ["ches_score", "output_layer_token_gram"]

_HIGHEST = jax.lax.Precision.HIGHEST


def _states(
    where: ArrayLike | None, **arrays: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """One array of hidden states, 0 where masked, and its mask."""
    ((name, states),) = arrays.items()
    (states,) = checks.floating(**{name: states})
    checks.min_ndim(name, states, 2)
    keep = jnp.asarray(True if where is None else where)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"The mask of `{name}` must be bool, got {keep.dtype}.")
    checks.broadcastable(f"the mask of {name}", keep, states.shape[:-1])
    keep = jnp.broadcast_to(keep, states.shape[:-1])
    return masked_fill(states, keep[..., None]), keep


def _residuals(
    hidden: jax.Array, weight: jax.Array, bias: jax.Array | None, tokens: jax.Array
) -> jax.Array:
    logits = jnp.einsum("...td,vd->...tv", hidden, weight, precision=_HIGHEST)
    if bias is not None:
        logits = logits + jnp.broadcast_to(bias, logits.shape)
    labels = jax.nn.one_hot(tokens, weight.shape[0], dtype=logits.dtype)
    return labels - jax.nn.softmax(logits, axis=-1)


def _tokens(name: str, tokens: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    tokens = jnp.asarray(tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {tokens.dtype}.")
    if tokens.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {tokens.shape}.")
    return tokens


@jit()
def output_layer_token_gram(
    hidden: ArrayLike,
    other_hidden: ArrayLike,
    weight: ArrayLike,
    tokens: ArrayLike,
    other_tokens: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    other_where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the inner products of token gradients in the output layer alone.

    .. math:: K_{t t'} = \langle e_{y_t} - p_t,\; e_{y'_{t'}} - q_{t'} \rangle
       \left( \langle h_t, h'_{t'} \rangle + [\text{bias}] \right)

    with :math:`p_t` and :math:`q_{t'}` the two next-token distributions. Exact for the
    weight (and bias) of the output layer, forward pass only; the first bracket is
    :math:`[y_t = y'_{t'}] - q_{t'}(y_t) - p_t(y'_{t'}) + \langle p_t, q_{t'} \rangle`.
    The sum over both axes is the cross entry of the pair Gram of that layer.

    Args:
      hidden: states that predict the tokens of one answer, ``[..., time, dim]``.
      other_hidden: those of the other answer, ``[..., other_time, dim]``.
      weight: the output layer, ``[vocab, dim]``.
      tokens: the tokens of the one answer, integers ``[..., time]``; those outside the
        vocabulary have the gradient of the normalizer.
      other_tokens: those of the other answer, integers ``[..., other_time]``.
      bias: of the output layer, ``[vocab]``, which then counts among the parameters;
        None if it has none.
      where: which positions of the one answer count, bool, broadcastable to
        ``[..., time]``; the others give 0.
      other_where: which positions of the other answer count.

    Returns:
      The inner products, ``[..., time, other_time]``, at least float32.

    Raises:
      TypeError: if states or weights are not real, tokens no integers or a mask not
        bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> hidden = jnp.eye(3)
      >>> gram = entanglement.output_layer_token_gram(
      ...     hidden[jnp.array([0, 1])],
      ...     hidden[jnp.array([0, 1])],
      ...     jnp.zeros((3, 3)),
      ...     jnp.array([1, 2]),
      ...     jnp.array([1, 0]),
      ... )
      >>> print(jnp.round(jnp.diag(gram), 4))
      [ 0.6667 -0.3333]

    References:
      Derived; see the theory page.
    """
    hidden, keep = _states(where, hidden=hidden)
    other, other_keep = _states(other_where, other_hidden=other_hidden)
    (weight,) = checks.floating(weight=weight)
    checks.shape("weight", weight, (None, hidden.shape[-1]))
    checks.shape("other_hidden", other, (*hidden.shape[:-2], None, hidden.shape[-1]))
    arrays = [hidden, other, weight]
    if bias is not None:
        (bias,) = checks.floating(bias=bias)
        checks.shape("bias", bias, (weight.shape[0],))
        arrays.append(bias)
    dtype = accumulation_dtype(*arrays)
    hidden, other, weight = (x.astype(dtype) for x in arrays[:3])
    shift = None if bias is None else bias.astype(dtype)
    tokens = _tokens("tokens", tokens, hidden.shape[:-1])
    other_tokens = _tokens("other_tokens", other_tokens, other.shape[:-1])
    # Residuals, not the four terms of the bracket: those cancel for sure tokens.
    brackets = jnp.einsum(
        "...tv,...sv->...ts",
        _residuals(hidden, weight, shift, tokens),
        _residuals(other, weight, shift, other_tokens),
        precision=_HIGHEST,
    )
    products = jnp.einsum("...td,...sd->...ts", hidden, other, precision=_HIGHEST)
    if bias is not None:
        products = products + 1.0
    counts = keep[..., :, None] & other_keep[..., None, :]
    return masked_fill(brackets * products, counts)


@jit(static_argnames=("length_normalize",))
def ches_score(
    chosen_hidden: ArrayLike,
    rejected_hidden: ArrayLike,
    *,
    length_normalize: bool = False,
    chosen_where: ArrayLike | None = None,
    rejected_where: ArrayLike | None = None,
) -> jax.Array:
    r"""Scores how likely a pair is to lose its chosen answer, from hidden states.

    .. math:: \Bigl\langle \sum_t h^w_t, \sum_t h^l_t \Bigr\rangle
       - \Bigl\lVert \sum_t h^w_t \Bigr\rVert^2

    The centered hidden embedding similarity: the sum of
    :func:`output_layer_token_gram` with every bracket set to 1, less its counterpart
    for the chosen answer. High scores mark pairs to leave out.

    The states are those that *predict* the tokens of the answer: the last state of the
    prompt counts, the state of the last answer token does not. Masks of answer tokens
    must be shifted by one accordingly.

    Args:
      chosen_hidden: last hidden states, ``[..., time, dim]``.
      rejected_hidden: those of the rejected answer, ``[..., other_time, dim]``.
      length_normalize: whether to take means over the states instead of sums.
      chosen_where: which states of the chosen answer count, bool, broadcastable to
        ``[..., time]``.
      rejected_where: which states of the rejected answer count.

    Returns:
      The score of each pair, shape ``[...]``, at least float32; 0 without any chosen
      state.

    Raises:
      TypeError: if states are not real or a mask not bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> print(entanglement.ches_score(jnp.eye(2), jnp.full((3, 2), 0.5)))
      1.0

    References:
      Razin et al., *Unintentional Unalignment: Likelihood Displacement in Direct
      Preference Optimization*, ICLR 2025.
    """
    chosen, keep = _states(chosen_where, chosen_hidden=chosen_hidden)
    rejected, other_keep = _states(rejected_where, rejected_hidden=rejected_hidden)
    checks.shape(
        "rejected_hidden", rejected, (*chosen.shape[:-2], None, chosen.shape[-1])
    )
    dtype = accumulation_dtype(chosen, rejected)

    def summary(states: jax.Array, keep: jax.Array) -> jax.Array:
        total = jnp.sum(states.astype(dtype), axis=-2)
        if not length_normalize:
            return total
        count = jnp.sum(keep, axis=-1, dtype=jnp.int32).astype(dtype)[..., None]
        return safe_divide(total, count)

    first, second = summary(chosen, keep), summary(rejected, other_keep)
    return jnp.einsum("...d,...d->...", first, second - first, precision=_HIGHEST)
