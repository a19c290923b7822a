"""The mesa layer: each token reads the ridge regression of all tokens so far."""

from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops._linear_attention._attention import linear_attention
from jaxkit.ops._linear_attention._forms import next_state
from jaxkit.ops._linear_attention._inputs import (
    Inputs,
    gate,
    output_dtype,
    prepare,
    start_state,
    state_shape,
)
from jaxkit.ops._linear_attention._mesa_solvers import SOLVERS, Problem
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["MesaState", "mesa_attention"]


class MesaState(NamedTuple):
    """What the mesa layer remembers, at least float32.

    Attributes:
      key_gram: the decayed sum of ``beta k k*``, Hermitian, ``[..., H, K, K]``.
      key_value: the decayed sum of ``beta conj(k) v``, shape ``[..., H, K, V]``.
    """

    key_gram: jax.Array
    key_value: jax.Array


@overload
def mesa_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    ridge: ArrayLike,
    log_decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    initial_state: MesaState | None = None,
    scale: ArrayLike = 1.0,
    solver: str = "rls",
    num_steps: int = 30,
    chunk_size: int = 64,
    return_state: Literal[False] = False,
    precision: PrecisionLike = None,
) -> jax.Array: ...
@overload
def mesa_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    ridge: ArrayLike,
    log_decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    initial_state: MesaState | None = None,
    scale: ArrayLike = 1.0,
    solver: str = "rls",
    num_steps: int = 30,
    chunk_size: int = 64,
    return_state: Literal[True],
    precision: PrecisionLike = None,
) -> tuple[jax.Array, MesaState]: ...
@jit(static_argnames=("solver", "num_steps", "chunk_size", "return_state", "precision"))
def mesa_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    ridge: ArrayLike,
    log_decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    initial_state: MesaState | None = None,
    scale: ArrayLike = 1.0,
    solver: str = "rls",
    num_steps: int = 30,
    chunk_size: int = 64,
    return_state: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array | tuple[jax.Array, MesaState]:
    r"""Reads, at each token, the ridge regression of all values on all keys so far.

    .. math::
        H_t = e^{g_t} H_{t-1} + \beta_t k_t k_t^*, \qquad
        N_t = e^{g_t} N_{t-1} + \beta_t \bar k_t v_t^\top, \qquad
        o_t = \text{scale} \cdot N_t^\top (H_t + \Lambda)^{-1} q_t

    Without gates this is ``W_t q_t`` for the minimizer ``W_t`` of
    ``sum_s |v_s - W k_s|^2 + |W Lambda^(1/2)|^2``. The ridge is not forgotten.

    ``"rls"`` updates a square root of the inverse token by token (Sherman-Morrison),
    in ``O(T K^2)``; ``"solve"`` factorizes every ``H_t + Lambda``, in ``O(T K^3)``;
    ``"cg"`` takes ``num_steps`` steps of conjugate gradients for all tokens at once,
    each one call of :func:`linear_attention`, which suits accelerators. Its
    derivatives are those of the exact solution, found by the same iteration: they
    are as accurate as it has converged. All keep at most ``chunk_size`` matrices
    per head in memory, also in reverse, and work at full precision.

    A relative error of about ``eps * cond(H_t + Lambda)`` is unavoidable: in float32
    a ridge below 1e-6 of the largest eigenvalue of ``H`` has no effect. ``"rls"``
    carries the error of its first steps along; ``"solve"`` does not.

    Args:
      query: shape ``[..., T, H, K]``, real or complex.
      key: shape ``[..., T, H, K]``.
      value: shape ``[..., T, H, V]``.
      ridge: diagonal of ``Lambda``, real and positive, broadcastable to
        ``[..., H, K]``.
      log_decay: ``g``, real and at most 0, shape ``[..., T, H]``; not with ``"rls"``.
      beta: input gate, real and at least 0, shape ``[..., T, H]``; None means 1.
      initial_state: ``H`` (Hermitian) and ``N`` before the first token; None is 0.
        The ridge is not part of it: pass the same one again.
      scale: real factor of the outputs; 1 by default, **not** ``K ** -0.5``.
      solver: ``"rls"``, ``"solve"`` or ``"cg"``.
      num_steps: steps of ``"cg"``; ``K`` steps solve exactly but for rounding.
      chunk_size: tokens in a chunk.
      return_state: whether to return the state after the last token too.
      precision: of the products that read ``N``; the rest is at full precision.

    Returns:
      The outputs ``[..., T, H, V]`` in the promoted dtype of query, key and value;
      with ``return_state`` also the :class:`MesaState`, at least float32.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit, ``T`` is 0, an option is unknown, or
        ``log_decay`` is per channel or given to ``"rls"``. A ridge that is not
        positive is reported under :func:`jax.experimental.checkify.checkify` only.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> key = jnp.ones((3, 1, 1))
      >>> out = ops.mesa_attention(key, key, 6.0 * key, ridge=1.0)
      >>> print([f"{x:.4f}" for x in out[:, 0, 0]])
      ['3.0000', '4.0000', '4.5000']

    References:
      von Oswald et al., *Uncovering mesa-optimization algorithms in Transformers*,
      2023; von Oswald et al., *MesaNet: Sequence Modeling by Locally Optimal
      Test-Time Training*, 2025.
    """
    x = prepare(query, key, value, log_decay=log_decay)
    checks.one_of("solver", solver, tuple(SOLVERS))
    checks.at_least("chunk_size", chunk_size, 1)
    checks.at_least("num_steps", num_steps, 1)
    _check_decay(x, solver)
    scale, ridge = checks.floating(scale=scale, ridge=ridge)
    out_dtype = output_dtype(x)
    x, start = _start(x, initial_state)
    *lead, _, heads, features = x.key.shape
    checks.broadcastable("ridge", ridge, (*lead, heads, features))
    checkify.debug_check(jnp.all(ridge > 0), "`ridge` must be positive.")
    ridge = jnp.broadcast_to(ridge, (*lead, heads, features)).astype(x.dtype)
    if beta is None:
        weights = jnp.ones_like(x.key, shape=(*x.key.shape[:-1], 1))
    else:
        weights = gate("beta", beta, x.key.shape[:-1])[..., None].astype(x.dtype)
    problem = Problem(x, weights, ridge, start.key_gram)
    size = min(chunk_size, x.key.shape[-3])
    coefficients = SOLVERS[solver](problem, size, num_steps)
    out, key_value = linear_attention(
        coefficients,
        x.key,
        weights * x.value,
        log_decay=log_decay,
        initial_state=start.key_value,
        scale=scale,
        chunk_size=size,
        return_state=True,
        precision=precision,
    )
    out = out.astype(out_dtype)
    if not return_state:
        return out
    return out, MesaState(_last_gram(problem), key_value)


def _check_decay(x: Inputs, solver: str) -> None:
    if x.log_decay is None:
        return
    if solver == "rls":
        raise ValueError(
            "`log_decay` needs `solver='solve'` or `'cg'`: the recursion of 'rls' "
            "would forget the ridge together with the tokens, which is another "
            "objective."
        )
    if x.log_decay.shape[-1] != 1:
        raise ValueError(
            f"`log_decay` must have shape {x.key.shape[:-1]}: one decay per key "
            f"channel leaves the Gram matrix not Hermitian, got {x.log_decay.shape}."
        )


def _start(x: Inputs, state: MesaState | None) -> tuple[Inputs, MesaState]:
    gram, key_value = (
        (None, None)
        if state is None
        else checks.inexact(
            **{f"initial_state.{name}": a for name, a in state._asdict().items()}
        )
    )
    given = [a for a in (gram, key_value) if a is not None]
    dtype = accumulation_dtype(x.query, x.key, x.value, *given)
    shape = state_shape(x)
    start = MesaState(
        start_state(
            "initial_state.key_gram", gram, (*shape[:-1], shape[-2]), dtype, x[:4]
        ),
        start_state("initial_state.key_value", key_value, shape, dtype, x[:4]),
    )
    query, key, value = (a.astype(dtype) for a in x[:3])
    return Inputs(query, key, value, x.log_decay, dtype), start


def _last_gram(problem: Problem) -> jax.Array:
    # Linear attention keeps the conjugate of H, as it conjugates its key.
    x = problem.x
    key, weighted = (jnp.swapaxes(a, -2, -3) for a in (x.key, problem.weights * x.key))
    decay = None if x.log_decay is None else jnp.swapaxes(x.log_decay, -2, -3)
    old = problem.key_gram.conj()
    gram = next_state(old, key, weighted, decay, jax.lax.Precision.HIGHEST).conj()
    return (gram + jnp.swapaxes(gram, -1, -2).conj()) / 2
