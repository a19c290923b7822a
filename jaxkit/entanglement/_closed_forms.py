"""Inner products of gradients in the output layer, without a backward pass."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.entanglement._inputs import broadcast_real
from jaxkit.entanglement._types import Changes, PairGram
from jaxkit.ops import masked_fill, masked_sum
from jaxkit.typing import ArrayLike

__all__ = [
    "softmax_pair_gram",
    "softmax_step_changes",
    "suffix_pair_gram",
]

_HIGHEST = jax.lax.Precision.HIGHEST


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("...v,...v->...", x, y, precision=_HIGHEST)


def _wide(**arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Real arrays in one dtype, at least float32, their shapes kept."""
    reals = checks.floating(**arrays)
    strong = [x for x in reals if not x.aval.weak_type]
    dtype = accumulation_dtype(*(strong or reals))
    return tuple(x.astype(dtype) for x in reals)


def _labels(name: str, labels: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {labels.dtype}.")
    if labels.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {labels.shape}.")
    return labels


def _residual(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of the log-probability of a label in the logits."""
    return jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype) - probs


@jit()
def softmax_pair_gram(
    probs: ArrayLike,
    chosen_index: ArrayLike,
    rejected_index: ArrayLike,
    *,
    hidden_sq_norm: ArrayLike = 1.0,
) -> PairGram:
    r"""Computes the pair Gram of answers of one token, in the output layer.

    .. math::
       s_{ww} = H (1 - 2 p_w + \lVert p \rVert^2), \quad
       s_{ll} = H (1 - 2 p_l + \lVert p \rVert^2), \quad
       s_{wl} = H (\lVert p \rVert^2 - p_w - p_l)

    with the probabilities :math:`p` of all tokens after the shared prompt and
    :math:`H` the squared norm of the hidden state. Under any loss with equal
    coefficients such a pair is ideal: the chosen share is
    :math:`(1 - p_w + p_l) / 2`.

    Args:
      probs: probabilities of the next token, shape ``[..., vocab]``.
      chosen_index: the chosen token, integers ``[...]``. An index outside the
        vocabulary is no token: its gradient is taken to be that of the normalizer.
      rejected_index: the rejected token, integers ``[...]``.
      hidden_sq_norm: squared norm of the hidden state that the output layer reads (plus
        1 if it has a bias), a scalar or broadcastable to ``[...]``.

    Returns:
      The Gram of each pair, each entry of shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``probs`` is not real or an index no integer.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> gram = entanglement.softmax_pair_gram(jnp.array([0.4, 0.3, 0.3]), 0, 1)
      >>> print(f"{gram.chosen:.2f} {gram.cross:.2f} {gram.rejected:.2f}")
      0.54 -0.36 0.74

    References:
      Derived; Yuan et al., ICLR 2025, study models of this kind.
    """
    probs, size = _wide(probs=probs, hidden_sq_norm=hidden_sq_norm)
    checks.min_ndim("probs", probs, 1)
    shape = probs.shape[:-1]
    checks.broadcastable("hidden_sq_norm", size, shape)
    # Dot products of residuals: 1 - 2 p + ||p||^2 would cancel for a sure token.
    chosen = _residual(probs, _labels("chosen_index", chosen_index, shape))
    rejected = _residual(probs, _labels("rejected_index", rejected_index, shape))
    size = jnp.broadcast_to(size, shape)
    return PairGram(
        chosen=size * _dot(chosen, chosen),
        cross=size * _dot(chosen, rejected),
        rejected=size * _dot(rejected, rejected),
    )


@jit()
def softmax_step_changes(
    chosen_prob: ArrayLike, rejected_prob: ArrayLike, logit_change: ArrayLike
) -> Changes:
    r"""Gives the exact changes of a pair of one-token answers after a finite step.

    .. math:: \Delta \log \pi_w = c - \log Z', \qquad
       \Delta \log \pi_l = -c - \log Z', \qquad
       Z' = 1 - p_w - p_l + p_w e^c + p_l e^{-c}

    A step on any loss with equal coefficients raises the logit of the chosen token by
    some :math:`c \ge 0`, lowers that of the rejected one by as much, and leaves the
    others: :math:`e^{-c} \le Z' \le e^c`, so the chosen answer never becomes less
    likely, however large the step.

    Args:
      chosen_prob: probability of the chosen token before, all arguments broadcast
        together.
      rejected_prob: probability of the rejected token before.
      logit_change: the change :math:`c` of the two logits.

    Returns:
      The changes of the log-probabilities, each of the broadcast shape, at least
      float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> changes = entanglement.softmax_step_changes(0.4, 0.3, 1.0)
      >>> print(f"{changes.chosen:.6f} {changes.rejected:.6f}")
      0.596085 -1.403915

    References:
      Derived; see the theory page.
    """
    chosen, rejected, change = broadcast_real(
        chosen_prob=chosen_prob,
        rejected_prob=rejected_prob,
        logit_change=logit_change,
    )
    size = jnp.abs(change)
    near = size < 1.0
    close = masked_fill(change, near)
    log_near = jnp.log1p(chosen * jnp.expm1(close) + rejected * jnp.expm1(-close))
    # log Z' - |c|, which a large step does not overflow.
    rest = jnp.maximum(1.0 - chosen - rejected, 0.0)
    rises, falls = jnp.exp(change - size), jnp.exp(-change - size)
    scaled = rest * jnp.exp(-size) + chosen * rises + rejected * falls
    log_far = jnp.log(masked_fill(scaled, ~near, fill=1.0))
    offset, log_z = jnp.where(near, 0.0, size), jnp.where(near, log_near, log_far)
    return Changes(chosen=change - offset - log_z, rejected=-change - offset - log_z)


@jit()
def suffix_pair_gram(
    probs: ArrayLike,
    chosen_index: ArrayLike,
    rejected_index: ArrayLike,
    chosen_suffix_probs: ArrayLike,
    rejected_suffix_probs: ArrayLike,
    suffix_tokens: ArrayLike,
    *,
    hidden_cosine: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> PairGram:
    r"""Computes the pair Gram of answers that differ in one token, in the output layer.

    .. math::
       s_{ww} - s_{wl} = (1 - p_v + p_{v'}) + \sum_{t > k} \left(
       \lVert r^w_t \rVert^2 - \gamma_t \langle r^w_t, r^l_t \rangle \right)

    where the answers part at position :math:`k` with tokens :math:`v` and :math:`v'`
    and agree again, :math:`r_t = e_{y_t} - p_t`. Hidden states have unit norm, those of
    different positions are orthogonal, and :math:`\gamma_t` is the inner product of the
    two hidden states at position :math:`t`. The differing token always helps; a later
    one hurts when the model is surer of it after the chosen token than after the
    rejected one, by 1/2 at most. Short suffixes are safe, long ones dangerous.

    The shared prefix is left out: it adds the same number to all three entries and
    cancels in their differences.

    Args:
      probs: probabilities at the position of the differing token, ``[..., vocab]``.
      chosen_index: the token of the chosen answer there, integers ``[...]``.
      rejected_index: the token of the rejected answer there, integers ``[...]``.
      chosen_suffix_probs: probabilities at the later positions after the chosen token,
        ``[..., time, vocab]``.
      rejected_suffix_probs: the same after the rejected token.
      suffix_tokens: the shared later tokens, integers ``[..., time]``.
      hidden_cosine: :math:`\gamma`, a scalar or broadcastable to ``[..., time]``.
      where: which later positions count, bool, broadcastable to ``[..., time]``.

    Returns:
      The Gram of each pair without its prefix, entries of shape ``[...]``, at least
      float32.

    Raises:
      TypeError: if probabilities are not real, tokens no integers or ``where`` not
        bool.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> sure, unsure = jnp.array([0.9, 0.1]), jnp.array([0.5, 0.5])
      >>> for length in (1, 8):
      ...     gram = entanglement.suffix_pair_gram(
      ...         unsure,
      ...         0,
      ...         1,
      ...         jnp.tile(sure, (length, 1)),
      ...         jnp.tile(unsure, (length, 1)),
      ...         jnp.zeros(length, int),
      ...     )
      ...     print(f"{gram.chosen - gram.cross:.2f}")
      0.92
      0.36

    References:
      Derived; see the theory page.
    """
    chosen_probs, rejected_probs, first, cosine = _wide(
        chosen_suffix_probs=chosen_suffix_probs,
        rejected_suffix_probs=rejected_suffix_probs,
        probs=probs,
        hidden_cosine=hidden_cosine,
    )
    checks.min_ndim("chosen_suffix_probs", chosen_probs, 2)
    checks.same_shape(
        chosen_suffix_probs=chosen_probs, rejected_suffix_probs=rejected_probs
    )
    shape = chosen_probs.shape[:-1]
    checks.shape("probs", first, (*shape[:-1], chosen_probs.shape[-1]))
    checks.broadcastable("hidden_cosine", cosine, shape)
    tokens = _labels("suffix_tokens", suffix_tokens, shape)
    here = softmax_pair_gram(first, chosen_index, rejected_index)
    keep = jnp.broadcast_to(True if where is None else jnp.asarray(where), shape)
    chosen = _residual(masked_fill(chosen_probs, keep[..., None]), tokens)
    rejected = _residual(masked_fill(rejected_probs, keep[..., None]), tokens)
    total = lambda terms: masked_sum(terms, axis=-1, where=keep)
    return PairGram(
        chosen=here.chosen + total(_dot(chosen, chosen)),
        cross=here.cross + total(cosine * _dot(chosen, rejected)),
        rejected=here.rejected + total(_dot(rejected, rejected)),
    )
