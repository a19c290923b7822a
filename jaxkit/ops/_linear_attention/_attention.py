"""Causal linear attention: the public functions."""

from typing import Literal, overload

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops._linear_attention import _forms as forms
from jaxkit.ops._linear_attention._inputs import (
    Inputs,
    output_dtype,
    prepare,
    start_state,
    state_shape,
)
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["linear_attention", "linear_attention_step"]

_IMPLEMENTATIONS = (
    "auto",
    "chunked",
    "parallel",
    "recurrent",
    "quadratic",
    "associative",
)
_NORMALIZATIONS = (None, "position", "key_sum")


@overload
def linear_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    normalize: str | None = None,
    eps: ArrayLike = 1e-6,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: Literal[False] = False,
    precision: PrecisionLike = None,
) -> jax.Array: ...
@overload
def linear_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    normalize: str | None = None,
    eps: ArrayLike = 1e-6,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: Literal[True],
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]: ...
@jit(
    static_argnames=(
        "normalize",
        "chunk_size",
        "implementation",
        "return_state",
        "precision",
    )
)
def linear_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    normalize: str | None = None,
    eps: ArrayLike = 1e-6,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""Causal linear attention, with a choice of forms that give equal results.

    .. math::
        S_t = \operatorname{diag}(e^{g_t})\, S_{t-1} + \bar k_t v_t^\top, \qquad
        o_t = \text{scale} \cdot S_t^\top q_t

    **The default scale is 1, not** ``K ** -0.5`` as in most other libraries: pass
    ``scale=K ** -0.5`` to reproduce them. The key is conjugated, query and value
    are not.

    The cost is linear in ``T`` except for ``"quadratic"``. All forms are
    differentiable in both modes and to any order. ``"chunked"`` scans over chunks
    and recomputes them in reverse, so that the memory of a gradient is about the
    size of the inputs; ``"parallel"`` treats all chunks at once and keeps a state
    for each; ``"recurrent"`` takes one token of all sequences at a time and is the
    fastest for tiny ``K * V`` with a large batch; ``"quadratic"`` and
    ``"associative"`` keep ``T * T`` and ``T * K * V`` numbers.

    Args:
      query: shape ``[..., T, H, K]``, real or complex.
      key: shape ``[..., T, H, K]``.
      value: shape ``[..., T, H, V]``.
      log_decay: ``g``, real and at most 0, one per head ``[..., T, H]`` or one per
        key channel ``[..., T, H, K]``; it acts on the state before the token is
        added. ``-inf`` (or anything below -1e4) forgets all. Positive values are
        not checked and may overflow. None means 0.
      initial_state: the state before the first token, ``[..., H, K, V]``; None is 0.
      segment_ids: integers ``[..., T]`` that tell packed sequences apart. The memory
        is cleared wherever the id differs from that of the token before, so a
        segment is a run of equal ids: an id that comes back later starts a new
        segment. The initial state belongs to the first segment, the returned one
        to the last.
      scale: real factor of the outputs.
      normalize: None; ``"position"`` divides by the 1-based position within the
        segment; ``"key_sum"`` divides by ``scale * sum_k q_t conj(k_s)`` summed over
        the (decayed) past, plus ``eps`` with the sign of its real part.
      eps: keeps ``"key_sum"`` from dividing by zero.
      chunk_size: tokens in a chunk of ``"chunked"`` and ``"parallel"``.
      implementation: ``"chunked"``, ``"parallel"``, ``"recurrent"``,
        ``"quadratic"``, ``"associative"``, or ``"auto"``: chunked on CPU, parallel
        on accelerators.
      return_state: whether to return the state after the last token too; given as
        ``initial_state``, it continues the sequence.
      precision: of the matrix products; None is the default of the backend, which
        may be less than float32 on accelerators.

    Returns:
      The outputs ``[..., T, H, V]`` in the promoted dtype of query, key and value.
      With ``return_state`` also the state ``[..., H, K, V]``, at least float32; with
      ``normalize="key_sum"`` the state has ``V + 1`` columns, the last of which
      sums the keys, and ``initial_state`` must have them too.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit, ``T`` is 0, an option is unknown, or
        ``initial_state`` is given with ``normalize="position"``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> x = jnp.ones((4, 1, 1))
      >>> print(ops.linear_attention(x, x, x)[:, 0, 0])
      [1. 2. 3. 4.]
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> print(ops.linear_attention(x, x, x, segment_ids=ids)[:, 0, 0])
      [1. 2. 1. 2.]

    References:
      Katharopoulos et al., *Transformers are RNNs*, ICML 2020; Yang et al., *Gated
      Linear Attention Transformers with Hardware-Efficient Training*, ICML 2024.
    """
    x = prepare(
        query,
        key,
        value,
        log_decay=log_decay,
        segment_ids=segment_ids,
        initial_state=initial_state,
    )
    checks.at_least("chunk_size", chunk_size, 1)
    checks.one_of("implementation", implementation, _IMPLEMENTATIONS)
    if normalize not in _NORMALIZATIONS:
        checks.one_of("normalize", normalize, [str(n) for n in _NORMALIZATIONS])
    if normalize == "position" and initial_state is not None:
        raise ValueError(
            "`initial_state` does not say how many tokens it holds, so "
            "`normalize='position'` cannot continue it."
        )
    scale, eps = checks.floating(scale=scale, eps=eps)
    dtype = output_dtype(x)
    if normalize == "key_sum":
        ones = jnp.ones_like(x.value, shape=(*x.value.shape[:-1], 1))
        x = x._replace(value=jnp.concatenate([x.value, ones], -1))
    shape = state_shape(x)
    state = start_state("initial_state", initial_state, shape, x.dtype, x[:4])
    out, state = _run(
        implementation, x, state, scale.astype(x.dtype), chunk_size, precision
    )
    if normalize == "key_sum":
        out = _divide_by_key_sum(out, eps)
    elif normalize == "position":
        out = out / _positions(segment_ids, x)
    out = out.astype(dtype)
    return (out, state) if return_state else out


def _run(
    implementation: str,
    x: Inputs,
    state: jax.Array,
    scale: jax.Array,
    chunk_size: int,
    precision: PrecisionLike,
) -> forms.Result:
    if implementation == "auto":
        on_cpu = jax.default_backend() == "cpu"
        implementation = "chunked" if on_cpu else "parallel"
    size = min(chunk_size, x.query.shape[-3])
    if implementation == "chunked":
        return forms.chunked(x, state, scale, size, precision)
    if implementation == "parallel":
        return forms.parallel(x, state, scale, size, precision)
    if implementation == "recurrent":
        return forms.recurrent(x, state, scale)
    if implementation == "quadratic":
        return forms.quadratic(x, state, scale, precision)
    return forms.associative(x, state, scale, precision)


def _divide_by_key_sum(out: jax.Array, eps: jax.Array) -> jax.Array:
    total = out[..., -1:]
    eps = eps.astype(total.real.dtype)
    # With the sign of the real part, eps never moves the divisor towards 0.
    eps = jnp.where(total.real >= 0, eps, -eps).astype(total.dtype)
    return out[..., :-1] / (total + eps)


def _positions(segment_ids: ArrayLike | None, x: Inputs) -> jax.Array:
    length = x.query.shape[-3]
    index = jnp.arange(length)
    if segment_ids is not None:
        ids = jnp.asarray(segment_ids)
        changed = ids[..., 1:] != ids[..., :-1]
        start = jnp.where(changed, jnp.arange(1, length), 0)
        start = jnp.concatenate([jnp.zeros_like(ids[..., :1]), start], -1)
        index = index - jax.lax.cummax(start, axis=start.ndim - 1)
    count = (index + 1).astype(x.dtype)
    return count.reshape(*(1,) * (x.query.ndim - 2 - count.ndim), *count.shape, 1, 1)


@jit(static_argnames=("precision",))
def linear_attention_step(
    state: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    r"""One token of :func:`linear_attention`, for decoding.

    .. math::
        S_t = \operatorname{diag}(e^{g_t})\, S_{t-1} + \bar k_t v_t^\top, \qquad
        o_t = \text{scale} \cdot S_t^\top q_t

    **The default scale is 1, not** ``K ** -0.5``.

    Args:
      state: shape ``[..., H, K, V]``.
      query: shape ``[..., H, K]``.
      key: shape ``[..., H, K]``.
      value: shape ``[..., H, V]``.
      log_decay: shape ``[..., H]`` or ``[..., H, K]``, at most 0; None means 0.
      scale: real factor of the output.
      precision: of the product with the state.

    Returns:
      The output ``[..., H, V]`` in the promoted dtype of query, key and value, and
      the new state, at least float32.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> state = jnp.ones((1, 1, 1))
      >>> x = jnp.full((1, 1), 2.0)
      >>> out, state = ops.linear_attention_step(state, x, x, x)
      >>> print(out, state[0])
      [[10.]] [[5.]]

    References:
      Katharopoulos et al., *Transformers are RNNs*, ICML 2020, section 3.4.
    """
    x = prepare(
        query, key, value, log_decay=log_decay, initial_state=state, single=True
    )
    (scale,) = checks.floating(scale=scale)
    shape = (*x.key.shape, x.value.shape[-1])
    old = start_state("state", state, shape, x.dtype, ())
    query, key, value = (a.astype(x.dtype) for a in x[:3])
    new, out = forms.token(
        old, query * scale.astype(x.dtype), key, value, x.log_decay, precision
    )
    return out.astype(output_dtype(x)), new
