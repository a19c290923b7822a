"""The delta rule: linear attention that corrects what it recalls."""

from typing import Literal, overload

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops._linear_attention import _forms as forms
from jaxkit.ops._linear_attention._decay import from_start, scores
from jaxkit.ops._linear_attention._inputs import (
    Inputs,
    gate,
    output_dtype,
    prepare,
    start_state,
    state_shape,
)
from jaxkit.ops._linear_attention._triangular import unit_lower_inverse
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["delta_rule"]


@overload
def delta_rule(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    beta: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: Literal[False] = False,
    precision: PrecisionLike = None,
) -> jax.Array: ...
@overload
def delta_rule(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    beta: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: Literal[True],
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]: ...
@jit(static_argnames=("chunk_size", "implementation", "return_state", "precision"))
def delta_rule(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    beta: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    chunk_size: int = 64,
    implementation: str = "auto",
    return_state: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""Linear attention whose memory is corrected instead of added to.

    .. math::
        \tilde S_t = \operatorname{diag}(e^{g_t})\, S_{t-1}, \qquad
        S_t = \tilde S_t + \beta_t \bar k_t (v_t - \tilde S_t^\top k_t)^\top, \qquad
        o_t = \text{scale} \cdot S_t^\top q_t

    Each token takes one step of gradient descent, of size ``beta``, on the error
    with which its key recalls its value. The recursion is stable when
    ``0 <= beta * |k|^2 <= 2``: normalize the keys. ``"chunked"`` inverts one unit
    triangular matrix per chunk and is made of matrix products.

    **The default scale is 1, not** ``K ** -0.5`` as in most other libraries.

    Args:
      query: shape ``[..., T, H, K]``, real or complex.
      key: shape ``[..., T, H, K]``.
      value: shape ``[..., T, H, V]``.
      beta: step sizes, real, shape ``[..., T, H]``.
      log_decay: ``g``, real and at most 0, ``[..., T, H]`` or ``[..., T, H, K]``, as
        in :func:`linear_attention`; None means 0.
      initial_state: the state before the first token, ``[..., H, K, V]``; None is 0.
      segment_ids: integers ``[..., T]``; the memory is cleared where the id differs
        from that of the token before, as in :func:`linear_attention`.
      scale: real factor of the outputs.
      chunk_size: tokens in a chunk of ``"chunked"``.
      implementation: ``"chunked"``, ``"recurrent"`` (one token at a time, keeps a
        state for each in reverse), or ``"auto"``, which is chunked.
      return_state: whether to return the state after the last token too.
      precision: of the matrix products; None is the default of the backend.

    Returns:
      The outputs ``[..., T, H, V]`` in the promoted dtype of query, key and value;
      with ``return_state`` also the state ``[..., H, K, V]``, at least float32.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit, ``T`` is 0, or an option is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> key = jnp.ones((2, 1, 1))
      >>> value = jnp.array([1.0, 5.0])[:, None, None]
      >>> print(ops.delta_rule(key, key, value, jnp.ones((2, 1)))[:, 0, 0])
      [1. 5.]

    References:
      Schlag et al., *Linear Transformers Are Secretly Fast Weight Programmers*, ICML
      2021; Yang et al., *Parallelizing Linear Transformers with the Delta Rule over
      Sequence Length*, NeurIPS 2024.
    """
    x = prepare(
        query,
        key,
        value,
        log_decay=log_decay,
        segment_ids=segment_ids,
        initial_state=initial_state,
    )
    beta = gate("beta", beta, x.key.shape[:-1])
    checks.at_least("chunk_size", chunk_size, 1)
    checks.one_of("implementation", implementation, ("auto", "chunked", "recurrent"))
    (scale,) = checks.floating(scale=scale)
    like = (*x[:4], beta)
    state = start_state("initial_state", initial_state, state_shape(x), x.dtype, like)
    scale, beta = scale.astype(x.dtype), beta.astype(x.dtype)[..., None]
    if implementation == "recurrent":
        out, state = _recurrent(x, beta, state, scale, precision)
    else:
        size = min(chunk_size, x.key.shape[-3])
        out, state = _chunked(x, beta, state, scale, size, precision)
    out = out.astype(output_dtype(x))
    return (out, state) if return_state else out


def _chunked(
    x: Inputs,
    beta: jax.Array,
    state: jax.Array,
    scale: jax.Array,
    size: int,
    precision: PrecisionLike,
) -> forms.Result:
    layout = forms.grouped_layout(x.key, size)

    @jax.checkpoint
    def step(state: jax.Array, row: tuple) -> forms.Result:
        row = jax.tree.map(layout.chunks, row)
        query, key, value, decay = forms.upcast(row[:4], x.dtype)
        before, written, state = _write(key, value, row[4], decay, state, precision)
        chunks = (query * scale, key, written, decay)
        out = forms.read_chunks(chunks, before, precision)
        return state, layout.unchunk(out)

    rows = jax.tree.map(layout.split, (*x[:4], beta))
    state, out = jax.lax.scan(step, state, rows)
    return layout.join(out), state


def _write(
    key: jax.Array,
    value: jax.Array,
    beta: jax.Array,
    log_decay: jax.Array | None,
    state: jax.Array,
    precision: PrecisionLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """States before consecutive chunks, what each token writes, and the last state.

    A token writes ``beta`` times the error of the memory just before it. Within a
    chunk these errors solve a unit triangular system.
    """
    inverse = unit_lower_inverse(beta * scores(key, key, log_decay, precision))
    reader = key
    if log_decay is not None:
        reader = key * from_start(log_decay).astype(key.dtype)
    # What would be written into an empty memory, and what the old memory takes away.
    fresh = jnp.matmul(inverse, beta * value, precision=precision)
    recall = jnp.matmul(inverse, beta * reader, precision=precision)

    def advance(state: jax.Array, chunk: tuple) -> tuple[jax.Array, forms.Result]:
        key, fresh, recall, decay = chunk
        recalled = jnp.matmul(recall, state, precision=precision)
        after = forms.next_state(state, key, fresh - recalled, decay, precision)
        return after, (state, fresh - recalled)

    chunks = (key, fresh, recall, log_decay)
    chunks = jax.tree.map(lambda a: jnp.moveaxis(a, -3, 0), chunks)
    state, out = jax.lax.scan(advance, state, chunks)
    before, written = (jnp.moveaxis(a, 0, -3) for a in out)
    return before, written, state


def _recurrent(
    x: Inputs,
    beta: jax.Array,
    state: jax.Array,
    scale: jax.Array,
    precision: PrecisionLike,
) -> forms.Result:
    def step(state: jax.Array, row: tuple) -> forms.Result:
        query, key, value, decay = forms.upcast(row[:4], x.dtype)
        beta = row[4]
        if decay is not None:
            state = jnp.exp(decay).astype(x.dtype)[..., None] * state
        recalled = jnp.einsum("...k,...kv->...v", key, state, precision=precision)
        error = beta * (value - recalled)
        return forms.token(state, query * scale, key, error, None, precision)

    rows = jax.tree.map(lambda a: jnp.moveaxis(a, -3, 0), (*x[:4], beta))
    state, out = jax.lax.scan(step, state, rows)
    return jnp.moveaxis(out, 0, -3), state
