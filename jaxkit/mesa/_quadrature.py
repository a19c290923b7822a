"""Finite weighted batches whose mean loss is the population loss, exactly."""

import itertools
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit.mesa._data import INITIAL_LAWS, ar_sequences
from jaxkit.typing import ArrayLike

__all__ = ["quadrature_batch"]

Law: TypeAlias = str | tuple[np.ndarray, np.ndarray]


def quadrature_batch(
    *, length: int, dim: int, law: Law = "gaussian", scale: ArrayLike = 1.0
) -> tuple[jax.Array, jax.Array]:
    r"""Makes weighted sequences on which the loss has its population value.

    .. math:: \sum_i w_i\, \ell(\theta, x^{(i)}) = E\,\ell(\theta, x)
       \quad\text{to rounding, for all } \theta

    The eigenvalues run over the roots of unity of order ``3 * length``, enough to
    remove all aliasing; the first tokens over the atoms of the law or over a product
    rule that is exact to degree 7. The number of rows is ``(3 * length)^dim`` times
    that of the first tokens: 3600 for ``length=5, dim=2`` and a Gaussian. For tests
    and small exact experiments; computed on the host.

    Args:
      length: the number of tokens ``T``, at least 1.
      dim: the token dimension ``d``, at least 1.
      law: ``"gaussian"``, ``"uniform"``, ``"sparse"``, ``"rademacher"`` or ``"ones"``
        as in :func:`sample_ar_sequences`, or a pair of atoms, shape
        ``[num_atoms, dim]``, and their probabilities, shape ``[num_atoms]``.
      scale: the factor of the first token, a scalar.

    Returns:
      The sequences, complex, shape ``[n, length, dim]``, and their weights, real,
      shape ``[n]`` and of sum 1, in the default precision.

    Raises:
      ValueError: if a size is too small, the law is unknown, or the atoms and their
        probabilities do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> x, weights = mesa.quadrature_batch(length=4, dim=1)
      >>> params = mesa.init_diagonal(1, a=0.0, b=0.0)
      >>> print(f"{jnp.sum(weights * mesa.ar_loss(params, x)):.4f}")
      1.0000

    References:
      Davis and Rabinowitz, *Methods of Numerical Integration*, 2nd ed., sections
      2.7 and 2.9.
    """
    checks.at_least("length", length, 1)
    checks.at_least("dim", dim, 1)
    points, probability = _atoms(law, dim)
    order = 3 * length
    roots = np.exp(2j * np.pi * np.arange(order) / order)
    # numpy's own product grid of many axes stops at 32; this one never gets there.
    phases = np.array(list(itertools.product(roots, repeat=dim)))
    u = np.repeat(points, len(phases), axis=0)
    eigenvalues = np.tile(phases, (len(points), 1))
    weights = np.repeat(probability, len(phases)) / len(phases)
    real = jax.dtypes.canonicalize_dtype(np.float64)
    (scale,) = checks.floating(scale=scale)
    checks.shape("scale", scale, ())
    x = ar_sequences(
        jnp.asarray(u, real) * scale.astype(real),
        jnp.asarray(eigenvalues, jax.dtypes.canonicalize_dtype(np.complex128)),
        length=length,
    )
    return x, jnp.asarray(weights, real)


def _atoms(law: Law, dim: int) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(law, str):
        points, probability = (np.asarray(part, np.float64) for part in law)
        if points.ndim != 2 or points.shape[1] != dim:
            raise ValueError(
                f"`law[0]` must have shape (num_atoms, {dim}), got {points.shape}."
            )
        if probability.shape != points.shape[:1]:
            raise ValueError(
                f"`law[1]` must have shape {points.shape[:1]}, got {probability.shape}."
            )
        return points, probability
    checks.one_of("law", law, INITIAL_LAWS)
    if law == "sparse":
        signed = np.concatenate([np.eye(dim), -np.eye(dim)])
        return signed, np.full(2 * dim, 0.5 / dim)
    if law == "gaussian":
        nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    elif law == "uniform":
        nodes, weights = np.polynomial.legendre.leggauss(4)
    elif law == "rademacher":
        nodes, weights = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    else:
        nodes, weights = np.array([1.0]), np.array([1.0])
    weights = weights / weights.sum()
    points = np.array(list(itertools.product(nodes, repeat=dim)))
    return points, np.array(list(itertools.product(weights, repeat=dim))).prod(axis=1)
