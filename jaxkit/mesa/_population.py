"""The exact population loss for dense blocks, beyond the diagonal."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._moments import Moments
from jaxkit.mesa._theory import loss_weights, real_moments
from jaxkit.mesa._validate import broadcast_real
from jaxkit.typing import ArrayLike

__all__ = [
    "PopulationTensor",
    "population_loss",
    "population_loss_diagonal",
    "population_loss_general",
    "population_tensor",
]

# Which sum over time multiplies the moment of an index pattern (l, m, n, l', m', n'):
# equal digits stand for equal indices, different digits for different ones. The
# expectation over the eigenvalues is 0 for every pattern not listed.
_QUADRATIC_PATTERNS = (
    ("000000", "001001"),
    (
        "000010", "001011", "001021", "001100", "010000", "010010",
        "011001", "011011", "011100", "011110", "012002", "012012",
    ),
    ("010020", "011021", "011120", "012022", "012032", "012200", "012210"),
    ("001110", "001120", "012220", "012230"),
)  # fmt: skip
_LINEAR_PATTERNS = (("0000",), ("0010",))

_HIGHEST = jax.lax.Precision.HIGHEST


class PopulationTensor(NamedTuple):
    """The coefficients of the population loss of one law.

    Attributes:
      quadratic: over the indices of ``B A B A``, shape ``[dim] * 6``.
      linear: over those of ``B A``, shape ``[dim] * 4``.
      constant: the loss of the zero predictor, a scalar.
    """

    quadratic: jax.Array
    linear: jax.Array
    constant: jax.Array


@jit(static_argnames=("length",))
def population_loss(
    a: ArrayLike, b: ArrayLike, moments: Moments, *, length: int
) -> jax.Array:
    r"""Computes the exact population loss for dense ``A`` and ``B``.

    .. math:: L(A, B) = \tfrac12 Q(A, B) - S_0 \kappa_1 \sum_j A_{jj} B_{jj}
       + \tfrac12 S_0\, d\, m_2, \qquad S_k = \sum_{t=2}^{T-1} (t-1)^{-k}

    where, with :math:`\beta_p = \sum_j B_{jp}^2`, :math:`\Gamma = B^\top B` and
    distinct indices in each sum,

    .. math:: Q = \sum \beta_p \left(S_0 \kappa_2 A_{pp}^2 + m_{42} (S_0 A_{pq}^2
       + S_1 A_{qq}^2 + S_1 A_{qp}^2) + S_1 m_{222} A_{qr}^2\right)
       + \sum \left(2 S_1 m_{42} \Gamma_{pq} A_{pq} A_{pp} + S_2 m_{222} \Gamma_{pr}
       A_{qr} A_{qp}\right).

    The other blocks are 0. Exact when the law of the first token is invariant under
    a change of sign and a permutation of coordinates; costs one matrix product.

    Args:
      a: the key-query block ``A``, real, shape ``[..., dim, dim]``.
      b: the projection-value block ``B``, of the same shape.
      moments: the moments of the first token, scalars or broadcastable to ``[...]``.
      length: the number of tokens ``T``, at least 3; static.

    Returns:
      The loss, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit or ``length`` is less than 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(2)
      >>> eye = jnp.eye(2)
      >>> loss = mesa.population_loss(0.6 * eye, 0.35 * eye, moments, length=4)
      >>> print(f"{loss:.5f}")
      1.00145

    References:
      Derived in the guide of this library for the model of Zheng et al., *On
      Mesa-Optimization in Autoregressively Trained Transformers*, NeurIPS 2024,
      section 3.
    """
    s0, s1, s2 = loss_weights(length)
    a, b, dim = _square_pair(a, b)
    real, _ = real_moments(moments)
    m2, k1, k2, _, m42, m222 = (
        jnp.broadcast_to(m.astype(a.dtype), a.shape[:-2]) for m in real
    )
    is_diagonal = jnp.broadcast_to(jnp.eye(dim, dtype=bool), a.shape)
    diagonal = jnp.diagonal(a, axis1=-2, axis2=-1)
    off = jnp.where(is_diagonal, 0.0, a)
    gamma = jnp.einsum("...jp,...jr->...pr", b, b, precision=_HIGHEST)
    beta = jnp.diagonal(gamma, axis1=-2, axis2=-1)
    diagonal_sq, off_sq = jnp.square(diagonal), jnp.square(off)
    row, column = jnp.sum(off_sq, axis=-1), jnp.sum(off_sq, axis=-2)
    other_diagonal = jnp.sum(diagonal_sq, axis=-1, keepdims=True) - diagonal_sq
    elsewhere = jnp.sum(row, axis=-1, keepdims=True) - row - column
    off_gram = jnp.einsum("...qp,...qr->...pr", off, off, precision=_HIGHEST)
    cross = jnp.sum(gamma * off * diagonal[..., None], axis=(-2, -1))
    chain = jnp.sum(jnp.where(is_diagonal, 0.0, gamma * off_gram), axis=(-2, -1))
    quadratic = (
        s0 * k2 * _dot(beta, diagonal_sq)
        + m42 * _dot(beta, s0 * row + s1 * other_diagonal + s1 * column)
        + m222 * s1 * _dot(beta, elsewhere)
        + 2 * s1 * m42 * cross
        + s2 * m222 * chain
    )
    trace = _dot(jnp.diagonal(b, axis1=-2, axis2=-1), diagonal)
    return 0.5 * quadratic - s0 * k1 * trace + 0.5 * s0 * dim * m2


def population_tensor(
    moment_fn: Callable[[np.ndarray], np.ndarray], *, length: int, dim: int
) -> PopulationTensor:
    r"""Builds the coefficients of the exact population loss of any law.

    .. math:: L = \tfrac12 \sum B_{jl} A_{mn} B_{jl'} A_{m'n'} Q_{lmnl'm'n'}
       - \sum B_{jl} A_{mn} R_{jlmn} + C

    The tensor has ``dim^6`` entries: build it once, on the host and in float64.

    Args:
      moment_fn: maps integer indices of shape ``[n, k]`` to the ``n`` moments
        ``E[u_{i_1} ... u_{i_k}]`` for ``k`` = 2, 4 and 6. For atoms ``points`` of
        shape ``[num_atoms, dim]`` with probabilities ``weights`` it is
        ``lambda i: weights @ points[:, i].prod(axis=-1)``.
      length: the number of tokens ``T``, at least 3.
      dim: the token dimension ``d``, from 1 to 10.

    Returns:
      The :class:`PopulationTensor`, in the default float dtype.

    Raises:
      ValueError: if ``length`` or ``dim`` is out of range, or ``moment_fn`` returns
        another shape than ``[n]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> ones = mesa.population_tensor(lambda i: 0.0 * i[:, 0] + 1.0, length=4, dim=2)
      >>> a, b = 0.6 * jnp.eye(2), 0.35 * jnp.eye(2)
      >>> print(f"{mesa.population_loss_general(a, b, ones):.5f}")
      1.31435

    References:
      Derived in the guide of this library for the model of Zheng et al., *On
      Mesa-Optimization in Autoregressively Trained Transformers*, NeurIPS 2024,
      section 3.
    """
    checks.at_least("dim", dim, 1)
    if dim > 10:
        raise ValueError(f"`dim` must be at most 10, got {dim}.")
    sums = (*loss_weights(length), 1.0)
    quadratic, linear = np.zeros((dim,) * 6), np.zeros((dim,) * 4)
    for tensor, table in (
        (quadratic, _QUADRATIC_PATTERNS),
        (linear, _LINEAR_PATTERNS),
    ):
        for weight, patterns in zip(sums, table, strict=False):
            for pattern in patterns:
                index = _assignments(pattern, dim)
                tensor[tuple(index.T)] = weight * _moments_of(moment_fn, index)
    pairs = np.repeat(np.arange(dim)[:, None], 2, axis=1)
    constant = 0.5 * sums[0] * np.sum(_moments_of(moment_fn, pairs))
    return PopulationTensor(*map(_default_float, (quadratic, linear, constant)))


def _default_float(value: np.ndarray) -> jax.Array:
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(np.float64))


def _assignments(pattern: str, dim: int) -> np.ndarray:
    digits = np.array([int(digit) for digit in pattern])
    distinct = list(itertools.permutations(range(dim), int(digits.max()) + 1))
    return np.array(distinct, dtype=int).reshape(-1, digits.max() + 1)[:, digits]


def _moments_of(
    moment_fn: Callable[[np.ndarray], np.ndarray], index: np.ndarray
) -> np.ndarray:
    values = np.asarray(moment_fn(index), np.float64)
    if values.shape != index.shape[:1]:
        raise ValueError(
            f"`moment_fn` must return shape {index.shape[:1]} for indices of shape "
            f"{index.shape}, got {values.shape}."
        )
    return values


@jit()
def population_loss_general(
    a: ArrayLike, b: ArrayLike, tensor: PopulationTensor
) -> jax.Array:
    r"""Computes the exact population loss of any law from its tensor.

    .. math:: L = \tfrac12 \sum B_{jl} A_{mn} B_{jl'} A_{m'n'} Q_{lmnl'm'n'}
       - \sum B_{jl} A_{mn} R_{jlmn} + C

    Args:
      a: the key-query block ``A``, real, shape ``[..., dim, dim]``.
      b: the projection-value block ``B``, of the same shape.
      tensor: from :func:`population_tensor`.

    Returns:
      The loss, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from jaxkit import mesa
      >>> points = np.array([[2.0], [-1.0]])
      >>> moment_fn = lambda i: np.array([1, 2]) / 3 @ points[:, i].prod(axis=-1)
      >>> skewed = mesa.population_tensor(moment_fn, length=3, dim=1)
      >>> print(mesa.population_loss_general(jnp.eye(1), 0 * jnp.eye(1), skewed))
      1.0

    References:
      Derived in the guide of this library for the model of Zheng et al., *On
      Mesa-Optimization in Autoregressively Trained Transformers*, NeurIPS 2024,
      section 3.
    """
    a, b, dim = _square_pair(a, b)
    checks.shape("tensor.quadratic", tensor.quadratic, (dim,) * 6)
    checks.shape("tensor.linear", tensor.linear, (dim,) * 4)
    q, r, constant = (leaf.astype(a.dtype) for leaf in tensor)
    gamma = jnp.einsum("...jl,...jk->...lk", b, b, precision=_HIGHEST)
    partial = jnp.einsum("lmnkop,...op->...lmnk", q, a, precision=_HIGHEST)
    partial = jnp.einsum("...lmnk,...mn->...lk", partial, a, precision=_HIGHEST)
    paired = jnp.einsum("jlmn,...mn->...jl", r, a, precision=_HIGHEST)
    loss = 0.5 * jnp.sum(partial * gamma, axis=(-2, -1))
    return loss - jnp.sum(paired * b, axis=(-2, -1)) + constant


@jit(static_argnames=("length",))
def population_loss_diagonal(
    a: ArrayLike,
    b: ArrayLike,
    *,
    m2: ArrayLike,
    m4: ArrayLike,
    m6: ArrayLike,
    m24: ArrayLike,
    length: int,
) -> jax.Array:
    r"""Computes the population loss at diagonal blocks, for unequal coordinates.

    .. math:: L = \tfrac12 \sum_j b_j^2 \Bigl[S_0 a_j^2 E u_j^6 + S_1 \sum_{r \ne j}
       a_r^2 E(u_j^2 u_r^4)\Bigr] - S_0 \sum_j a_j b_j E u_j^4
       + \tfrac12 S_0 \sum_j E u_j^2

    Exact for laws that are invariant under the change of sign of any coordinate.

    Args:
      a: the diagonal of ``A``, real, shape ``[..., dim]``.
      b: the diagonal of ``B``, of the same shape.
      m2: ``E[u_j^2]``, shape ``[dim]``.
      m4: ``E[u_j^4]``, shape ``[dim]``.
      m6: ``E[u_j^6]``, shape ``[dim]``.
      m24: ``E[u_j^2 u_r^4]`` in row ``j``, column ``r``, shape ``[dim, dim]``; its
        diagonal is not read.
      length: the number of tokens ``T``, at least 3; static.

    Returns:
      The loss, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit or ``length`` is less than 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> variance = jnp.array([1.0, 4.0])
      >>> loss = mesa.population_loss_diagonal(
      ...     jnp.zeros(2), jnp.zeros(2), m2=variance, m4=3 * variance**2,
      ...     m6=15 * variance**3, m24=3 * jnp.outer(variance, variance**2), length=4)
      >>> print(loss)
      5.0

    References:
      Derived in the guide of this library for the model of Zheng et al., *On
      Mesa-Optimization in Autoregressively Trained Transformers*, NeurIPS 2024,
      section 3.
    """
    s0, s1, _ = loss_weights(length)
    a, b = checks.floating(a=a, b=b)
    checks.axis_size("a", a, -1, 1)
    checks.same_shape(a=a, b=b)
    dim = a.shape[-1]
    (m24,) = checks.floating(m24=m24)
    if m24.shape != (dim, dim):
        raise ValueError(f"`m24` must have shape {(dim, dim)}, got {m24.shape}.")
    a, b, m2, m4, m6 = broadcast_real(a=a, b=b, m2=m2, m4=m4, m6=m6)
    mixed = jnp.where(jnp.eye(dim, dtype=bool), 0.0, m24.astype(a.dtype))
    neighbors = jnp.einsum("...r,jr->...j", jnp.square(a), mixed, precision=_HIGHEST)
    quadratic = jnp.square(b) * (s0 * m6 * jnp.square(a) + s1 * neighbors)
    terms = 0.5 * quadratic - s0 * m4 * a * b + 0.5 * s0 * m2
    return jnp.sum(terms, axis=-1)


def _square_pair(a: ArrayLike, b: ArrayLike) -> tuple[jax.Array, jax.Array, int]:
    a, b = checks.floating(a=a, b=b)
    checks.axis_size("a", a, -1, 1)
    dim = a.shape[-1]
    checks.shape("a", a, (dim, dim))
    checks.same_shape(a=a, b=b)
    dtype = accumulation_dtype(a, b)
    return a.astype(dtype), b.astype(dtype), dim


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.sum(left * right, axis=-1)
