"""Solvers of ``(H_t + ridge) x_t = q_t`` for every token of a sequence."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxkit.ops._linear_attention._attention import linear_attention
from jaxkit.ops._linear_attention._chunks import Layout
from jaxkit.ops._linear_attention._inputs import Inputs
from jaxkit.ops._masking import safe_divide
from jaxkit.ops._numerics import abs_squared

__all__ = ["SOLVERS", "Problem"]

_HIGHEST = jax.lax.Precision.HIGHEST

Pair: TypeAlias = tuple[jax.Array, jax.Array]


class Problem(NamedTuple):
    """Checked arrays in the accumulation dtype, and the Gram matrix at the start."""

    x: Inputs
    weights: jax.Array
    ridge: jax.Array
    key_gram: jax.Array


def _by_recursion(problem: Problem, size: int, num_steps: int) -> jax.Array:
    """Updates a square root ``F`` of the inverse: ``F F* = (H + ridge)^-1``.

    This is the Sherman-Morrison formula for ``F``. The inverse stays Hermitian and
    positive by construction, and float32 loses half the digits it would lose on the
    inverse itself.
    """
    del num_steps
    x = problem.x

    def step(root: jax.Array, row: tuple) -> Pair:
        query, key, weight = row
        direction = _apply(_adjoint(root), key)
        length = weight.real * jnp.sum(abs_squared(direction), -1, keepdims=True)
        norm = jnp.sqrt(1 + length).astype(x.dtype)
        gain = weight / (norm * (1 + norm)) * _apply(root, direction)
        root = root - gain[..., :, None] * direction.conj()[..., None, :]
        return root, _apply(root, _apply(_adjoint(root), query))

    arrays = (x.query, x.key, problem.weights)
    return _scan_chunks(
        lambda root, rows: jax.lax.scan(step, root, rows),
        _inverse_root(problem),
        arrays,
        size,
    )


def _inverse_root(problem: Problem) -> jax.Array:
    systems = _add_ridge(problem.key_gram, problem.ridge)
    factor = jnp.linalg.cholesky(systems, symmetrize_input=False)
    identity = jnp.eye(factor.shape[-1], dtype=factor.dtype)
    identity = jnp.broadcast_to(identity, factor.shape)
    return solve_triangular(factor, identity, trans="C", lower=True)


def _by_factorization(problem: Problem, size: int, num_steps: int) -> jax.Array:
    """Solves with the Cholesky factor of ``H_t + ridge`` for every token."""
    del num_steps
    x = problem.x

    def step(gram: jax.Array, row: tuple) -> Pair:
        key, weight, decay = row
        if decay is not None:
            gram = jnp.exp(decay).astype(x.dtype)[..., None] * gram
        gram = gram + (weight * key)[..., :, None] * key.conj()[..., None, :]
        return gram, gram

    def solve_chunk(gram: jax.Array, rows: tuple) -> Pair:
        query, *rest = rows
        gram, grams = jax.lax.scan(step, gram, tuple(rest))
        systems = _add_ridge(grams, problem.ridge[None])
        return gram, _solve_hermitian(systems, query[..., None])[..., 0]

    arrays = (x.query, x.key, problem.weights, x.log_decay)
    return _scan_chunks(solve_chunk, problem.key_gram, arrays, size)


def _solve_hermitian(systems: jax.Array, rhs: jax.Array) -> jax.Array:
    # Differentiated as a solve, not through the factorization: the latter takes
    # matrix right-hand sides in reverse, many times the cost.
    fixed = jax.lax.stop_gradient(systems)
    factor = jnp.linalg.cholesky(fixed, symmetrize_input=False)
    return jax.lax.custom_linear_solve(
        lambda x: jnp.matmul(systems, x, precision=_HIGHEST),
        rhs,
        lambda _, b: cho_solve((factor, True), b),
        lambda _, b: cho_solve((factor, True), b.conj()).conj(),
    )


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

    def solve(multiply: Callable[[jax.Array], jax.Array], rhs: jax.Array) -> jax.Array:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            solution, residual, direction, energy = carry
            image = multiply(direction)
            curvature = jnp.sum((direction.conj() * image).real, -1, keepdims=True)
            # Once the residual is exactly 0 both quotients are 0 / 0: stay.
            length = safe_divide(energy, curvature).astype(x.dtype)
            solution = solution + length * direction
            residual = residual - length * image
            left = jnp.sum(abs_squared(residual), -1, keepdims=True)
            direction = residual + safe_divide(left, energy).astype(x.dtype) * direction
            return (solution, residual, direction, left), None

        energy = jnp.sum(abs_squared(rhs), -1, keepdims=True)
        carry = (jnp.zeros_like(rhs), rhs, rhs, energy)
        return jax.lax.scan(step, carry, None, length=num_steps)[0][0]

    # The transpose of a Hermitian positive operator is one too.
    return jax.lax.custom_linear_solve(multiply, x.query, solve, transpose_solve=solve)


def _scan_chunks(
    step: Callable[[jax.Array, tuple], Pair],
    state: jax.Array,
    arrays: tuple[Any, ...],
    size: int,
) -> jax.Array:
    """Maps chunks of rows ``[C, ..., H, F]`` to rows; keeps one state for each."""
    layout = Layout.of(arrays[0], size, 1)

    def rows_of(chunk: jax.Array) -> jax.Array:
        return jnp.moveaxis(layout.chunks(chunk)[..., 0, :, :], -2, 0)

    @jax.checkpoint
    def chunk_step(state: jax.Array, chunk: tuple) -> Pair:
        state, out = step(state, jax.tree.map(rows_of, chunk))
        return state, layout.unchunk(jnp.moveaxis(out, 0, -2)[..., None, :, :])

    _, out = jax.lax.scan(chunk_step, state, jax.tree.map(layout.split, arrays))
    return layout.join(out)


def _add_ridge(gram: jax.Array, ridge: jax.Array) -> jax.Array:
    diagonal = np.eye(ridge.shape[-1], dtype=bool)
    return gram + jnp.where(diagonal, ridge[..., None], jnp.zeros((), ridge.dtype))


def _adjoint(matrix: jax.Array) -> jax.Array:
    return jnp.swapaxes(matrix, -1, -2).conj()


def _apply(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.einsum("...ab,...b->...a", matrix, vector, precision=_HIGHEST)


SOLVERS = {
    "rls": _by_recursion,
    "solve": _by_factorization,
    "cg": _by_conjugate_gradients,
}
