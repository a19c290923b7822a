"""The mesa layer: each token reads the ridge regression of all tokens so far."""

from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops._linalg import cholesky_solve
from jaxkit.ops._linear_attention._attention import linear_attention
from jaxkit.ops._linear_attention._chunks import join_chunks, split_chunks
from jaxkit.ops._linear_attention._forms import heads_first, next_state
from jaxkit.ops._linear_attention._inputs import (
    Inputs,
    gate,
    output_dtype,
    prepare,
    start_state,
    state_shape,
)
from jaxkit.ops._masking import safe_divide
from jaxkit.ops._numerics import abs_squared
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["MesaState", "mesa_attention"]

_HIGHEST = jax.lax.Precision.HIGHEST


class MesaState(NamedTuple):
    """What the mesa layer remembers, at least float32."""

    key_gram: jax.Array
    """Sum of beta k k*, decayed, shape ``[..., H, K, K]``."""
    key_value: jax.Array
    """Sum of beta conj(k) v, decayed, shape ``[..., H, K, V]``."""


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
        ``log_decay`` is per channel or given to ``"rls"``.

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
    checks.one_of("solver", solver, tuple(_SOLVERS))
    checks.at_least("chunk_size", chunk_size, 1)
    checks.at_least("num_steps", num_steps, 1)
    _check_decay(x, solver)
    scale, ridge = checks.floating(scale=scale, ridge=ridge)
    out_dtype = output_dtype(x)
    x, start = _start(x, initial_state)
    *lead, _, heads, features = x.key.shape
    checks.broadcastable("ridge", ridge, (*lead, heads, features))
    ridge = jnp.broadcast_to(ridge, (*lead, heads, features)).astype(x.dtype)
    if beta is None:
        weights = jnp.ones_like(x.key, shape=(*x.key.shape[:-1], 1))
    else:
        weights = gate("beta", beta, x.key.shape[:-1])[..., None].astype(x.dtype)
    problem = Problem(x, weights, ridge, start.key_gram)
    size = min(chunk_size, x.key.shape[-3])
    coefficients = _SOLVERS[solver](problem, size, num_steps)
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


class Problem(NamedTuple):
    """Checked arrays in the accumulation dtype, and the Gram matrix at the start."""

    x: Inputs
    weights: jax.Array
    ridge: jax.Array
    key_gram: jax.Array


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


def _adjoint(matrix: jax.Array) -> jax.Array:
    return jnp.swapaxes(matrix, -1, -2).conj()


def _add_ridge(gram: jax.Array, ridge: jax.Array) -> jax.Array:
    diagonal = np.eye(ridge.shape[-1], dtype=bool)
    return gram + jnp.where(diagonal, ridge[..., None], jnp.zeros((), ridge.dtype))


def _outer(weight: jax.Array, key: jax.Array) -> jax.Array:
    return (weight * key)[..., :, None] * key.conj()[..., None, :]


def _scan_tokens(
    step: Callable[[jax.Array, tuple], tuple[jax.Array, jax.Array]],
    state: jax.Array,
    chunk: tuple[jax.Array | None, ...],
) -> tuple[jax.Array, jax.Array]:
    rows = tuple(None if a is None else jnp.moveaxis(a, -3, 0) for a in chunk)
    return jax.lax.scan(step, state, rows)


def _by_recursion(problem: Problem, size: int, num_steps: int) -> jax.Array:
    """Updates a square root ``F`` of the inverse: ``F F* = (H + ridge)^-1``.

    This is the Sherman-Morrison formula for ``F``. The inverse stays Hermitian and
    positive by construction, and float32 loses half the digits it would lose on the
    inverse itself.
    """
    del num_steps
    x = problem.x

    def step(root: jax.Array, row: tuple) -> tuple[jax.Array, jax.Array]:
        query, key, weight = row
        direction = _apply(_adjoint(root), key)
        length = weight.real * jnp.sum(abs_squared(direction), -1, keepdims=True)
        norm = jnp.sqrt(1 + length).astype(x.dtype)
        gain = weight / (norm * (1 + norm)) * _apply(root, direction)
        root = root - gain[..., :, None] * direction.conj()[..., None, :]
        return root, _apply(root, _apply(_adjoint(root), query))

    @jax.checkpoint
    def chunk_step(root: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
        root, out = _scan_tokens(step, root, chunk)
        return root, jnp.moveaxis(out, 0, -3)

    arrays = (x.query, x.key, problem.weights)
    chunks = tuple(split_chunks(a, size, leading=True) for a in arrays)
    _, out = jax.lax.scan(chunk_step, _inverse_root(problem), chunks)
    return join_chunks(out, x.key.shape[-3], leading=True)


def _inverse_root(problem: Problem) -> jax.Array:
    factor = jnp.linalg.cholesky(
        _add_ridge(problem.key_gram, problem.ridge), symmetrize_input=False
    )
    identity = jnp.broadcast_to(
        jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape
    )
    return solve_triangular(factor, identity, trans="C", lower=True)


def _by_factorization(problem: Problem, size: int, num_steps: int) -> jax.Array:
    """Solves with the Cholesky factor of ``H_t + ridge`` for every token."""
    del num_steps
    x = problem.x

    def step(gram: jax.Array, row: tuple) -> tuple[jax.Array, jax.Array]:
        key, weight, decay = row
        if decay is not None:
            gram = jnp.exp(decay).astype(x.dtype)[..., None] * gram
        gram = gram + _outer(weight, key)
        return gram, gram

    @jax.checkpoint
    def chunk_step(gram: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
        query, *rest = chunk
        gram, grams = _scan_tokens(step, gram, tuple(rest))
        systems = _add_ridge(grams, problem.ridge[None])
        rhs = jnp.moveaxis(query, -3, 0)[..., None]
        return gram, jnp.moveaxis(cholesky_solve(systems, rhs)[..., 0], 0, -3)

    arrays = (x.query, x.key, problem.weights, x.log_decay)
    chunks = tuple(split_chunks(a, size, leading=True) for a in arrays)
    _, out = jax.lax.scan(chunk_step, problem.key_gram, chunks)
    return join_chunks(out, x.key.shape[-3], leading=True)


def _by_conjugate_gradients(problem: Problem, size: int, num_steps: int) -> jax.Array:
    """Conjugate gradients for all tokens at once, by causal linear attention."""
    x = problem.x
    decay = None if x.log_decay is None else x.log_decay[..., 0]

    def multiply(vector: jax.Array) -> jax.Array:
        product = linear_attention(
            vector,
            x.key,
            problem.weights * x.key,
            log_decay=decay,
            initial_state=problem.key_gram.conj(),
            chunk_size=size,
            precision=_HIGHEST,
        )
        return product + problem.ridge[..., None, :, :] * vector

    def solve(multiply: Callable, rhs: jax.Array) -> jax.Array:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            solution, residual, direction, energy = carry
            image = multiply(direction)
            curvature = jnp.sum(direction.conj() * image, -1, keepdims=True).real
            # Once the residual is exactly 0 both steps are 0 / 0: stay.
            step_size = safe_divide(energy, curvature).astype(x.dtype)
            solution = solution + step_size * direction
            residual = residual - step_size * image
            new_energy = jnp.sum(abs_squared(residual), -1, keepdims=True)
            momentum = safe_divide(new_energy, energy).astype(x.dtype)
            return (
                solution,
                residual,
                residual + momentum * direction,
                new_energy,
            ), None

        energy = jnp.sum(abs_squared(rhs), -1, keepdims=True)
        carry = (jnp.zeros_like(rhs), rhs, rhs, energy)
        return jax.lax.scan(step, carry, None, length=num_steps)[0][0]

    def transpose_solve(multiply: Callable, rhs: jax.Array) -> jax.Array:
        return solve(multiply, rhs)

    return jax.lax.custom_linear_solve(multiply, x.query, solve, transpose_solve)


def _apply(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.einsum("...ab,...b->...a", matrix, vector, precision=_HIGHEST)


def _last_gram(problem: Problem) -> jax.Array:
    x = problem.x
    key, weighted, _, decay = heads_first(
        (x.key, problem.weights * x.key, x.value, x.log_decay), x.dtype
    )
    gram = problem.key_gram.conj()
    gram = next_state(gram, key, weighted, decay, _HIGHEST).conj()
    return (gram + _adjoint(gram)) / 2


_SOLVERS = {
    "rls": _by_recursion,
    "solve": _by_factorization,
    "cg": _by_conjugate_gradients,
}
