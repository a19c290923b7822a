"""The one-layer linear self-attention model and its autoregressive loss."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._validate import broadcast_real
from jaxkit.ops import abs_squared, linear_attention, masked_fill
from jaxkit.typing import ArrayLike, DTypeLike, Key, PrecisionLike

__all__ = [
    "LSAParams",
    "ar_loss",
    "embed_ar",
    "init_diagonal",
    "init_gaussian",
    "lsa_predict",
]

_CACHED_STATES = 2**15
"""Most entries of all states together at which the recurrent form was faster."""


class LSAParams(NamedTuple):
    r"""Parameters of the linear self-attention layer.

    Only the blocks that the loss reads are kept. The two that training from a
    diagonal start moves are ``A = kq[d:, :d]`` and ``B = pv[:, :d]``.

    Attributes:
      kq: the key-query matrix, shape ``[2 * dim, 2 * dim]``.
      pv: the projection-value matrix, shape ``[dim, 2 * dim]``.
    """

    kq: jax.Array
    pv: jax.Array


@jit(static_argnames=("dim", "dtype"))
def init_diagonal(
    dim: int,
    *,
    a: ArrayLike = 0.1,
    b: ArrayLike = 0.1,
    dtype: DTypeLike = jnp.float32,
) -> LSAParams:
    r"""Makes parameters whose only non-zero blocks are two scaled identities.

    .. math:: A = a I, \qquad B = b I

    Args:
      dim: the token dimension ``d``, at least 1; static.
      a: the diagonal of the key-query block, shape ``[...]``.
      b: the diagonal of the projection-value block; broadcasts with ``a``.
      dtype: a floating or complex dtype; static.

    Returns:
      The parameters, with the leading axes of ``a`` and ``b``.

    Raises:
      TypeError: if ``a`` or ``b`` is not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> print(mesa.init_diagonal(2, a=0.5, b=0.25).pv)
      [[0.25 0.   0.   0.  ]
       [0.   0.25 0.   0.  ]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, assumption 3.1.
    """
    checks.at_least("dim", dim, 1)
    a, b = broadcast_real(a=a, b=b)
    kq_block = jnp.eye(2 * dim, k=-dim, dtype=bool)
    pv_block = jnp.eye(dim, 2 * dim, dtype=bool)
    return LSAParams(
        _on_block(a, kq_block).astype(dtype), _on_block(b, pv_block).astype(dtype)
    )


def _on_block(value: jax.Array, block: jax.Array) -> jax.Array:
    shape = (*value.shape, *block.shape)
    return jnp.where(jnp.broadcast_to(block, shape), value[..., None, None], 0.0)


@jit(static_argnames=("dim", "dtype"))
def init_gaussian(
    key: Key,
    dim: int,
    *,
    stddev: ArrayLike = 0.01,
    dtype: DTypeLike = jnp.float32,
) -> LSAParams:
    r"""Samples all six blocks that the loss reads.

    .. math:: \mathrm{KQ}_{ij}, \mathrm{PV}_{ij} \sim \mathcal{N}(0, \sigma_w^2)

    Args:
      key: a typed random key.
      dim: the token dimension ``d``, at least 1; static.
      stddev: the standard deviation, a scalar; of the modulus, if complex.
      dtype: a floating or complex dtype; static.

    Returns:
      The parameters.

    Raises:
      TypeError: if ``key`` is not a typed key or ``stddev`` not real.
      ValueError: if ``dim`` is less than 1.

    Examples:
      >>> import jax
      >>> from jaxkit import mesa
      >>> mesa.init_gaussian(jax.random.key(0), 3).kq.shape
      (6, 6)

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 6.
    """
    checks.typed_key(key)
    checks.at_least("dim", dim, 1)
    (stddev,) = checks.floating(stddev=stddev)
    checks.shape("stddev", stddev, ())
    key_kq, key_pv = jax.random.split(key)
    stddev = stddev.astype(dtype)
    return LSAParams(
        stddev * jax.random.normal(key_kq, (2 * dim, 2 * dim), dtype),
        stddev * jax.random.normal(key_pv, (dim, 2 * dim), dtype),
    )


@jit()
def embed_ar(x: ArrayLike) -> jax.Array:
    r"""Joins each token with the one before it.

    .. math:: e_t = (x_t, x_{t-1}), \qquad x_0 = 0

    Args:
      x: the sequences, real or complex, shape ``[..., T, dim]``.

    Returns:
      The embeddings, shape ``[..., T, 2 * dim]``, in the dtype of ``x``.

    Raises:
      TypeError: if ``x`` is not floating or complex.
      ValueError: if ``x`` has fewer than two axes or an empty one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> print(mesa.embed_ar(jnp.array([[1.0], [2.0], [3.0]])))
      [[1. 0.]
       [2. 1.]
       [3. 2.]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3.
    """
    (x,) = checks.inexact(x=x)
    checks.axis_size("x", x, -2, 1)
    checks.axis_size("x", x, -1, 1)
    before = jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)
    return jnp.concatenate([x, before], axis=-1)


@jit(static_argnames=("implementation", "precision"))
def lsa_predict(
    params: LSAParams,
    x: ArrayLike,
    *,
    implementation: str = "auto",
    precision: PrecisionLike = None,
) -> jax.Array:
    r"""Predicts each next token by one layer of linear causal self-attention.

    .. math:: \hat y_t = \mathrm{PV}\, \frac{E_t E_t^*}{t-1}\, \mathrm{KQ}\, e_t,
       \qquad E_t = (e_1, \dots, e_t), \qquad t = 2, \dots, T-1

    The divisor is ``t - 1``, the number of pairs of neighbors seen. The first
    position has none, so its prediction is not returned.

    Args:
      params: the parameters, real or complex.
      x: the sequences, real or complex, shape ``[..., T, dim]`` with ``T >= 3``.
      implementation: the form of :func:`jaxkit.ops.linear_attention`; they agree to
        rounding. ``"auto"`` is ``"recurrent"`` on CPU while ``dim`` is at most 6 and
        the batch small, and ``"parallel"`` otherwise, as was fastest in measurements.
      precision: the precision of the matrix products. Accelerators may round float32
        products to fewer digits; exact flows want ``jax.lax.Precision.HIGHEST``.

    Returns:
      The predictions of ``x_3, ..., x_T``, shape ``[..., T-2, dim]``, in the promoted
      dtype, at least float32.

    Raises:
      TypeError: if an argument is not floating or complex.
      ValueError: if a shape does not fit, the batch is empty, ``T`` is less than 3
        or the implementation is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> x = mesa.ar_sequences(jnp.ones(1), jnp.array([-1.0]), length=5)
      >>> params = mesa.init_diagonal(1, a=1.0, b=1.0)
      >>> print(mesa.lsa_predict(params, x)[:, 0])
      [ 1. -1.  1.]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3, eq. 3.
    """
    params, x = _check(params, x)
    embedding = embed_ar(x)
    query = _project(params.kq, embedding, precision)
    value = _project(params.pv, embedding, precision)
    out = linear_attention(
        query[..., None, :],
        embedding[..., None, :],
        value[..., None, :],
        implementation=_choose(implementation, x.shape),
        # The state is 2d * d numbers: chunks much longer than 2d only add scores.
        chunk_size=max(8, 2 * x.shape[-1]),
        precision=precision,
    )[..., 1:-1, 0, :]
    divisor = jnp.arange(1, x.shape[-2] - 1).astype(out.dtype)
    return out / jnp.broadcast_to(divisor[:, None], out.shape)


@jit(static_argnames=("implementation", "precision"))
def ar_loss(
    params: LSAParams,
    x: ArrayLike,
    *,
    implementation: str = "auto",
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the autoregressive squared error of each sequence.

    .. math:: \ell = \tfrac12 \sum_{t=2}^{T-1} \|\hat y_t - x_{t+1}\|^2

    The sum over time belongs to the example; reduce over examples with
    :func:`jaxkit.ops.masked_mean`. Real parameters get a real gradient also from
    complex data. The gradient in complex parameters is the conjugate of the
    direction of ascent: see :func:`conjugate_updates`.

    Args:
      params: the parameters, real or complex.
      x: the sequences, real or complex, shape ``[..., T, dim]`` with ``T >= 3``.
      implementation: as in :func:`lsa_predict`.
      precision: as in :func:`lsa_predict`.
      where: which sequences count, bool, shape ``[...]``; the others may hold NaN
        and give 0 and no gradient. None means all.

    Returns:
      The loss of each sequence, real, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not floating or complex, or ``where`` not bool.
      ValueError: as in :func:`lsa_predict`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> x = mesa.ar_sequences(jnp.array([1.0, 2.0]), jnp.array([1j, -1]), length=4)
      >>> print(f"{mesa.ar_loss(mesa.init_diagonal(2, a=0.5, b=0.4), x):.5f}")
      1.80000

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3, eq. 5.
    """
    params, x = _check(params, x)
    if where is not None:
        counts = jnp.asarray(where)
        checks.broadcastable("where", counts, x.shape[:-2])
        x = masked_fill(x, counts[..., None, None])
    predicted = lsa_predict(
        params, x, implementation=implementation, precision=precision
    )
    error = abs_squared(predicted - x[..., 2:, :].astype(predicted.dtype))
    return masked_fill(0.5 * jnp.sum(error, axis=(-2, -1)), where)


def _check(params: LSAParams, x: ArrayLike) -> tuple[LSAParams, jax.Array]:
    kq, pv, x = checks.inexact(kq=params.kq, pv=params.pv, x=x)
    checks.axis_size("x", x, -2, 3)
    if not x.size:
        raise ValueError(f"`x` must not be empty, got shape {x.shape}.")
    dim = x.shape[-1]
    for name, matrix, rows in (("kq", kq, 2 * dim), ("pv", pv, dim)):
        if matrix.shape != (rows, 2 * dim):
            raise ValueError(
                f"`params.{name}` must have shape {(rows, 2 * dim)} for `x` of shape "
                f"{x.shape}, got {matrix.shape}."
            )
    # One dtype throughout; autodiff turns the cast of real parameters to complex
    # into the real part of the gradient.
    dtype = accumulation_dtype(kq, pv, x)
    return LSAParams(kq.astype(dtype), pv.astype(dtype)), x.astype(dtype)


def _project(
    matrix: jax.Array, tokens: jax.Array, precision: PrecisionLike
) -> jax.Array:
    return jnp.einsum("...i,oi->...o", tokens, matrix, precision=precision)


def _choose(implementation: str, shape: tuple[int, ...]) -> str:
    # Value and gradient on two idle CPU cores, complex64, time of recurrent over that
    # of parallel for (sequences, length, dim): 0.3 (1000, 100, 2), 0.5 (256, 24, 5),
    # 0.7 (512, 50, 5), 0.8 (256, 100, 5); but 1.1 (1000, 100, 5), 1.5 (1000, 50, 5),
    # 1.2 (1000, 100, 8). What counts is that all states stay in the cache.
    if implementation != "auto":
        return implementation
    *lead, _, dim = shape
    states = 2 * dim**2 * math.prod(lead)
    fits = dim <= 6 and states <= _CACHED_STATES
    return "recurrent" if fits and jax.default_backend() == "cpu" else "parallel"
