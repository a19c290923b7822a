"""Checks of values on the host, before anything is compiled."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit.typing import ArrayLike

__all__ = [
    "check_gram",
    "is_traced",
    "validate_data",
    "validate_gram",
    "validate_order",
    "warn_if_scaled",
    "warn_of_scale",
]

_SCALE_FREE = (
    "All columns have nearly the same variance, as after standardizing. A "
    "least-squares score finds directions from variances and is then mistaken; use a "
    "score that does not depend on scale: sparse BIC, or non-linear features with "
    "unequal variances."
)


def validate_data(
    x: ArrayLike, *, ridge: float = 0.0, least_squares: bool = True
) -> np.ndarray:
    """Checks a data set on the host and says what is wrong with it.

    A function of NumPy arrays: it looks at values, so it cannot be compiled. Integers
    become floats.

    Args:
      x: the data, one row per sample, shape ``[n, d]``.
      ridge: the ridge that will be used; a positive one excuses too few samples and
        constant or duplicate columns.
      least_squares: whether a least-squares score is meant; then columns of equal
        variance raise a warning.

    Returns:
      The data as a floating NumPy array.

    Raises:
      TypeError: if ``x`` is not real.
      ValueError: if ``x`` is not two-dimensional, has fewer than two rows or columns,
        holds NaN or infinities, has no more rows than columns, or has constant or
        duplicate columns, which are named.

    Examples:
      >>> import numpy as np
      >>> from jaxkit import dag
      >>> dag.validate_data(np.array([[1, 2], [3, 5], [0, 1]])).dtype
      dtype('float64')
    """
    x = np.asarray(x)
    # bfloat16 is not one of NumPy's own kinds; it converts to float32.
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise TypeError(f"`x` must be real, got {x.dtype}.")
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(
            f"`x` must have shape (n, d) with n >= 2 and d >= 2, got {x.shape}."
        )
    if x.dtype.kind != "f":
        x = x.astype(np.float64 if x.dtype.kind in "iub" else np.float32)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=0))
    if bad.size:
        raise ValueError(
            f"`x` must be finite, got NaN or inf in columns {_names(bad)}."
        )
    if ridge <= 0:
        _check_rank(x)
    if least_squares:
        warn_of_scale(np.var(x.astype(np.float64), axis=0), stacklevel=3)
    return x


def _check_rank(x: np.ndarray) -> None:
    n, d = x.shape
    if n <= d:
        raise ValueError(
            f"`x` must have more rows than columns unless `ridge` is positive, got {x.shape}."
        )
    x = x.astype(np.float64)
    spread = x.std(axis=0)
    constant = np.flatnonzero(spread <= 1e-12 * np.abs(x).max(axis=0))
    if constant.size:
        raise ValueError(
            f"`x` has constant columns {_names(constant)}; drop them or set `ridge`."
        )
    z = (x - x.mean(axis=0)) / spread
    close = np.abs(z.T @ z) / n > 1.0 - 1e-12
    pairs = np.argwhere(np.triu(close, 1))
    if pairs.size:
        listed = ", ".join(f"{i} and {j}" for i, j in pairs.tolist())
        raise ValueError(
            f"`x` has columns that are multiples of each other: {listed}; drop one of "
            "each or set `ridge`."
        )


def validate_gram(gram: ArrayLike, *, tol: float = 1e-8) -> np.ndarray:
    """Checks on the host that a matrix can be a Gram or covariance matrix.

    Args:
      gram: the matrix, shape ``[d, d]``.
      tol: the greatest asymmetry and the most negative eigenvalue let through,
        relative to the greatest entry.

    Returns:
      The matrix as a NumPy array.

    Raises:
      ValueError: if the matrix is not square, not finite, not symmetric or not positive
        semidefinite.

    Examples:
      >>> import numpy as np
      >>> from jaxkit import dag
      >>> dag.validate_gram(np.eye(2)).shape
      (2, 2)
    """
    gram = np.asarray(gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.shape[0] < 2:
        raise ValueError(
            f"`gram` must have shape (d, d) with d >= 2, got {gram.shape}."
        )
    wide = gram.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("`gram` must be finite, got NaN or inf.")
    check_gram("gram", wide, tol)
    return gram


def check_gram(name: str, gram: np.ndarray, tol: float) -> None:
    """Raises unless a finite matrix is symmetric and positive semidefinite."""
    scale = np.abs(gram).max()
    asymmetry = np.abs(gram - gram.T).max()
    if asymmetry > tol * scale:
        raise ValueError(
            f"`{name}` must be symmetric, got a difference of {asymmetry:g}."
        )
    lowest = np.linalg.eigvalsh(gram)[0]
    if lowest < -tol * scale:
        raise ValueError(
            f"`{name}` must be positive semidefinite, got the eigenvalue {lowest:g}."
        )


def validate_order(order: ArrayLike, num_nodes: int) -> np.ndarray:
    """Checks on the host that an order names every node once.

    Args:
      order: the nodes, parents first, shape ``[..., d]``.
      num_nodes: the number ``d`` of nodes.

    Returns:
      The order as an int32 NumPy array.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if it is not a permutation of ``0 .. d-1``.

    Examples:
      >>> from jaxkit import dag
      >>> print(dag.validate_order([2, 0, 1], 3))
      [2 0 1]
    """
    array = np.asarray(order)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`order` must hold integers, got {array.dtype}.")
    fits = array.ndim >= 1 and array.shape[-1] == num_nodes
    if not fits or not np.all(np.sort(array, axis=-1) == np.arange(num_nodes)):
        got = array.tolist() if array.size <= 20 else f"shape {array.shape}"
        raise ValueError(
            f"`order` must be a permutation of 0 to {num_nodes - 1}, got {got}."
        )
    return array.astype(np.int32)


def warn_of_scale(variances: np.ndarray, *, stacklevel: int) -> None:
    """Warns when no variance differs from another by more than one percent."""
    if variances.max() <= 1.01 * variances.min():
        warnings.warn(_SCALE_FREE, UserWarning, stacklevel=stacklevel)


def warn_if_scaled(gram: ArrayLike, *, stacklevel: int) -> None:
    """Warns of the scale of moments, where their values are known."""
    if is_traced(gram):
        return
    # Known values stay known also while a caller's program is being traced.
    with jax.ensure_compile_time_eval():
        variances = jnp.diagonal(gram)
    warn_of_scale(np.asarray(variances, np.float64), stacklevel=stacklevel + 1)


def is_traced(*values: object) -> bool:
    """Whether any leaf of the values is unknown while a program is being traced."""
    return any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(values))


def _names(indices: np.ndarray) -> str:
    return ", ".join(str(i) for i in indices.tolist())
