"""Losses and masks that let only the tokens that differ push."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["contrast_mask", "token_mask_loss"]


@jit()
def token_mask_loss(
    chosen_log_ratios: ArrayLike,
    rejected_log_ratios: ArrayLike,
    chosen_gates: ArrayLike,
    rejected_gates: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    sparsity: ArrayLike = 0.003,
    chosen_where: ArrayLike | None = None,
    rejected_where: ArrayLike | None = None,
) -> jax.Array:
    r"""The DPO loss of gated tokens, with a price on open gates.

    .. math:: \ell = -\log \sigma \Bigl( \beta \sum_t \mu^w_t
       \log \frac{\pi(y^w_t)}{\pi_0(y^w_t)} - \beta \sum_t \mu^l_t
       \log \frac{\pi(y^l_t)}{\pi_0(y^l_t)} \Bigr)
       + \lambda \Bigl( \sum_t |\mu^w_t| + \sum_t |\mu^l_t| \Bigr)

    Only tokens with an open gate enter the two gradients. A gate stays open while
    :math:`\beta \sigma(-x)` times the log-ratio of its token exceeds
    :math:`\lambda`, with ``x`` the gated margin times ``beta``. Let both answers share
    one gate that sees what comes before the token, such as
    :class:`jaxkit.nn.TokenGate`: with gates of their own the chosen ones close, the
    rejected ones open, and all log-probabilities collapse.

    Args:
      chosen_log_ratios: log-ratio of each token of the chosen answers to the
        reference, shape ``[..., T]``.
      rejected_log_ratios: the same of the rejected answers, shape ``[..., T']``.
      chosen_gates: gates in [0, 1], shape ``[..., T]``.
      rejected_gates: gates in [0, 1], shape ``[..., T']``.
      beta: inverse temperature.
      sparsity: the price :math:`\lambda` of an open gate.
      chosen_where: which tokens belong to the chosen answers, bool ``[..., T]``; the
        others may hold NaN.
      rejected_where: the same of the rejected answers, bool ``[..., T']``.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> ratios, gates = jnp.array([[0.5, 2.0]]), jnp.array([[1.0, 0.0]])
      >>> print(entanglement.token_mask_loss(ratios, ratios, gates, gates, sparsity=0.0))
      [0.6931472]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (sparse token masks).
    """
    ratios = checks.floating(
        chosen_log_ratios=chosen_log_ratios, rejected_log_ratios=rejected_log_ratios
    )
    gates = checks.floating(chosen_gates=chosen_gates, rejected_gates=rejected_gates)
    for name, ratio, gate in zip(("chosen", "rejected"), ratios, gates, strict=True):
        checks.min_ndim(f"{name}_log_ratios", ratio, 1)
        checks.same_shape(**{f"{name}_log_ratios": ratio, f"{name}_gates": gate})
    if ratios[0].shape[:-1] != ratios[1].shape[:-1]:
        raise ValueError(
            f"`chosen_log_ratios` and `rejected_log_ratios` must have the same leading "
            f"axes, got {ratios[0].shape} and {ratios[1].shape}."
        )
    dtype = accumulation_dtype(*ratios, *gates)
    open_gates, gated = [], []
    for ratio, gate, where in zip(
        ratios, gates, (chosen_where, rejected_where), strict=True
    ):
        ratio = masked_fill(ratio.astype(dtype), where)
        gate = masked_fill(gate.astype(dtype), where)
        gated.append(jnp.sum(gate * ratio, axis=-1))
        open_gates.append(jnp.sum(jnp.abs(gate), axis=-1))
    margin = beta * (gated[0] - gated[1])
    return -jax.nn.log_sigmoid(margin) + sparsity * (open_gates[0] + open_gates[1])


@jit()
def contrast_mask(
    chosen_tokens: ArrayLike,
    rejected_tokens: ArrayLike,
    *,
    chosen_where: ArrayLike | None = None,
    rejected_where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Marks the tokens in which two answers differ.

    Answers of one length are compared token by token. Of answers of two lengths
    everything after their common beginning is marked. The n-th token of one answer
    meets the n-th of the other, wherever they stand in their rows.

    Args:
      chosen_tokens: integer tokens, shape ``[..., T]``.
      rejected_tokens: integer tokens, shape ``[..., T]``.
      chosen_where: which tokens belong to the chosen answers, bool ``[..., T]``.
      rejected_where: the same of the rejected answers.

    Returns:
      Two bool masks of shape ``[..., T]``, False outside of the answers.

    Raises:
      TypeError: if the tokens are not integers or a mask is not bool.
      ValueError: if the shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> masks = entanglement.contrast_mask(jnp.array([5, 1, 7]), jnp.array([5, 2, 7]))
      >>> print(*masks)
      [False  True False] [False  True False]
    """
    tokens, masks = [], []
    for name, rows, where in (
        ("chosen", chosen_tokens, chosen_where),
        ("rejected", rejected_tokens, rejected_where),
    ):
        array = jnp.asarray(rows)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(
                f"`{name}_tokens` must have an integer dtype, got {array.dtype}."
            )
        checks.min_ndim(f"{name}_tokens", array, 1)
        mask = jnp.asarray(True) if where is None else jnp.asarray(where)
        if mask.dtype != jnp.bool_:
            raise TypeError(f"`{name}_where` must have dtype bool, got {mask.dtype}.")
        checks.broadcastable(f"{name}_where", mask, array.shape)
        tokens.append(array)
        masks.append(jnp.broadcast_to(mask, array.shape))
    checks.same_shape(chosen_tokens=tokens[0], rejected_tokens=tokens[1])
    chosen, rejected = (_answer_first(t, m) for t, m in zip(tokens, masks, strict=True))
    lengths = [jnp.sum(m, axis=-1, dtype=jnp.int32, keepdims=True) for m in masks]
    place = jnp.arange(chosen.shape[-1], dtype=jnp.int32)
    place = jnp.broadcast_to(place, chosen.shape)
    shorter = jnp.minimum(*lengths)
    differs = (chosen != rejected) | (place >= shorter)
    after = jnp.cumsum(differs, axis=-1, dtype=jnp.int32) > 0
    marked = jnp.where(lengths[0] == lengths[1], differs, after)
    out = [_put_back(marked, mask) for mask in masks]
    return out[0], out[1]


def _answer_first(tokens: jax.Array, where: jax.Array) -> jax.Array:
    """Moves the tokens of the answer to the front of their row."""
    order = jnp.argsort(~where, axis=-1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=-1)


def _put_back(marked: jax.Array, where: jax.Array) -> jax.Array:
    """Gives each token of the answer what its place in the answer has."""
    place = jnp.cumsum(where, axis=-1, dtype=jnp.int32) - 1
    return where & jnp.take_along_axis(marked, jnp.maximum(place, 0), axis=-1)
