"""Ridge regression solved in three exact ways, each with the derivative of its result.

One factorization serves the weights and their derivative. The rule is written once, for
forward mode; it is linear in the tangents, so reverse mode is its transpose. That gives
the closed form of the cotangents (see docs/theory/distillation.md) with no derivative of
a factorization in it, and leaves jvp, Hessians and collectives over devices intact.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

__all__ = ["METHODS", "matmul", "resolve", "ridge_weights", "shifted"]

METHODS = ("auto", "cholesky", "primal", "qr", "autodiff")
_MAX_QR_SIZE = 2048

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Solution(NamedTuple):
    weights: jax.Array
    tangent: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    """Maps tangents of features, targets and ridge to the tangent of the weights."""


def resolve(method: str, features: jax.Array) -> str:
    """Picks the method that ``"auto"`` stands for."""
    if method != "auto":
        return method
    num_examples, num_features = features.shape
    single = jnp.finfo(features.dtype).bits < 64
    if single and min(num_examples, num_features) <= _MAX_QR_SIZE:
        return "qr"
    return "cholesky" if num_examples <= num_features else "primal"


def shifted(matrix: jax.Array, ridge: jax.Array) -> jax.Array:
    """Adds the ridge to the diagonal."""
    return matrix + ridge * jnp.eye(matrix.shape[0], dtype=matrix.dtype)


def _dual(features: jax.Array, targets: jax.Array, ridge: jax.Array) -> _Solution:
    gram = shifted(matmul(features, features.T), ridge)
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    solve = lambda rhs: cho_solve((factor, True), rhs)
    alpha = solve(targets)
    weights = matmul(features.T, alpha)

    def tangent(d_features: jax.Array, d_targets: jax.Array, d_ridge: jax.Array):
        along = matmul(d_features.T, alpha)
        rhs = d_targets - matmul(d_features, weights) - d_ridge * alpha
        return along + matmul(features.T, solve(rhs - matmul(features, along)))

    return _Solution(weights, tangent)


def _primal(features: jax.Array, targets: jax.Array, ridge: jax.Array) -> _Solution:
    gram = shifted(matmul(features.T, features), ridge)
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    solve = lambda rhs: cho_solve((factor, True), rhs)
    weights = solve(matmul(features.T, targets))
    residual = targets - matmul(features, weights)

    def tangent(d_features: jax.Array, d_targets: jax.Array, d_ridge: jax.Array):
        inner = d_targets - matmul(d_features, weights)
        outer = matmul(d_features.T, residual) - d_ridge * weights
        return solve(outer + matmul(features.T, inner))

    return _Solution(weights, tangent)


def _qr(features: jax.Array, targets: jax.Array, ridge: jax.Array) -> _Solution:
    wide = features.shape[0] <= features.shape[1]
    return (_dual_qr if wide else _primal_qr)(features, targets, ridge)


def _stacked_qr(matrix: jax.Array, ridge: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives the rows of Q that belong to the matrix, and R.

    R.T @ R is the shifted Gram matrix, but R has only the root of its condition number.
    """
    rows, columns = matrix.shape
    root = jnp.sqrt(ridge) * jnp.eye(columns, dtype=matrix.dtype)
    basis, upper = jnp.linalg.qr(jnp.concatenate([matrix, root]))
    return basis[:rows], upper


def _dual_qr(features: jax.Array, targets: jax.Array, ridge: jax.Array) -> _Solution:
    basis, upper = _stacked_qr(features.T, ridge)
    half_solve = lambda rhs: solve_triangular(upper, rhs, trans="T")
    half = half_solve(targets)
    weights = matmul(basis, half)
    alpha = solve_triangular(upper, half)

    def tangent(d_features: jax.Array, d_targets: jax.Array, d_ridge: jax.Array):
        along = matmul(d_features.T, alpha)
        rhs = d_targets - matmul(d_features, weights) - d_ridge * alpha
        return along + matmul(basis, half_solve(rhs) - matmul(basis.T, along))

    return _Solution(weights, tangent)


def _primal_qr(features: jax.Array, targets: jax.Array, ridge: jax.Array) -> _Solution:
    basis, upper = _stacked_qr(features, ridge)
    weights = solve_triangular(upper, matmul(basis.T, targets))
    # Unlike alpha, the residual over the ridge, it survives a tiny ridge.
    residual = targets - matmul(features, weights)

    def tangent(d_features: jax.Array, d_targets: jax.Array, d_ridge: jax.Array):
        outer = matmul(d_features.T, residual) - d_ridge * weights
        inner = matmul(basis.T, d_targets - matmul(d_features, weights))
        return solve_triangular(
            upper, solve_triangular(upper, outer, trans="T") + inner
        )

    return _Solution(weights, tangent)


_SOLVERS = {"cholesky": _dual, "primal": _primal, "qr": _qr}


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _explicit(
    features: jax.Array, targets: jax.Array, ridge: jax.Array, method: str
) -> jax.Array:
    return _SOLVERS[method](features, targets, ridge).weights


@_explicit.defjvp
def _explicit_jvp(
    method: str, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    solution = _SOLVERS[method](*primals)
    return solution.weights, solution.tangent(*tangents)


def ridge_weights(
    features: jax.Array, targets: jax.Array, ridge: jax.Array, method: str
) -> jax.Array:
    """Gives the weights, shape ``[p, k]``; all arguments of one dtype."""
    # A ridge that is not positive must show, also where the factorization exists.
    ridge = jnp.where(ridge > 0, ridge, jnp.nan)
    method = resolve(method, features)
    if method == "autodiff":
        return _dual(features, targets, ridge).weights
    return _explicit(features, targets, ridge, method)
