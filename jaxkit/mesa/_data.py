"""Autoregressive sequences driven by a diagonal unitary matrix."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._validate import real_dtype
from jaxkit.typing import ArrayLike, DTypeLike, Key

__all__ = ["INITIAL_LAWS", "ar_sequences", "sample_ar_sequences"]

Initial: TypeAlias = str | Callable[[Key, tuple[int, ...], DTypeLike], jax.Array]

INITIAL_LAWS = ("gaussian", "uniform", "sparse", "rademacher", "ones")


@jit(static_argnames=("length",))
def ar_sequences(
    initial: ArrayLike, eigenvalues: ArrayLike, *, length: int
) -> jax.Array:
    r"""Runs a diagonal autoregression from given first tokens.

    .. math:: x_1 = u, \qquad x_{t+1} = \operatorname{diag}(\lambda)\, x_t

    The powers are a cumulative product, whose one-step residual in float32 stays
    near 2e-7 for a thousand steps; ``exp(i * angle * t)`` loses three digits.

    Args:
      initial: the first tokens ``u``, real or complex, shape ``[..., dim]``.
      eigenvalues: ``lambda``, shape ``[..., dim]``; both broadcast together.
      length: the number of tokens ``T``, at least 1; static.

    Returns:
      The sequences, shape ``[..., length, dim]``, in the promoted dtype, at least
      float32.

    Raises:
      TypeError: if an argument is not floating or complex.
      ValueError: if ``length`` is less than 1 or the last axes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> x = mesa.ar_sequences(jnp.array([1.0, 2.0]), jnp.array([1j, -1]), length=3)
      >>> print(x)
      [[ 1.+0.j  2.+0.j]
       [ 0.+1.j -2.+0.j]
       [-1.+0.j  2.-0.j]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3.
    """
    initial, eigenvalues = checks.inexact(initial=initial, eigenvalues=eigenvalues)
    checks.at_least("length", length, 1)
    checks.axis_size("initial", initial, -1, 1)
    checks.shape("eigenvalues", eigenvalues, (initial.shape[-1],))
    dtype = accumulation_dtype(initial, eigenvalues)
    u, lam = jnp.broadcast_arrays(initial.astype(dtype), eigenvalues.astype(dtype))
    shape = (*u.shape[:-1], length - 1, u.shape[-1])
    steps = jnp.broadcast_to(lam[..., None, :], shape)
    return jnp.cumprod(jnp.concatenate([u[..., None, :], steps], axis=-2), axis=-2)


def sample_ar_sequences(
    key: Key,
    *,
    batch_shape: tuple[int, ...] = (),
    length: int,
    dim: int,
    initial: Initial = "gaussian",
    scale: ArrayLike = 1.0,
    dtype: DTypeLike = jnp.complex64,
) -> jax.Array:
    r"""Samples sequences whose matrix is unitary, diagonal and new each time.

    .. math:: x_{t+1} = W x_t, \quad W = \operatorname{diag}(\lambda), \quad
       \lambda_j \sim \mathrm{U}(\{|z| = 1\}), \quad x_1 = c\,u, \quad u \sim
       \mathcal{D}

    The first token is real and independent of ``W``; later ones are complex.

    Args:
      key: a typed random key.
      batch_shape: leading axes of the result.
      length: the number of tokens ``T``, at least 1.
      dim: the token dimension ``d``, at least 1.
      initial: the law of ``u``. ``"gaussian"``: N(0, I); ``"uniform"`` on [-1, 1];
        ``"sparse"``: one coordinate is +-1, the others 0; ``"rademacher"``: all
        coordinates are +-1; ``"ones"``: the vector of ones; or a callable
        ``(key, shape, real_dtype) -> u``.
      scale: the factor ``c``, a scalar; the standard deviation of the Gaussian law.
      dtype: a complex dtype.

    Returns:
      The sequences, shape ``[*batch_shape, length, dim]``.

    Raises:
      TypeError: if ``key`` is no typed key or ``dtype`` is not complex.
      ValueError: if a size is too small, the law is unknown, or a callable returns
        another shape than asked.

    Examples:
      >>> import jax
      >>> from jaxkit import mesa
      >>> key = jax.random.key(0)
      >>> x = mesa.sample_ar_sequences(key, batch_shape=(4,), length=6, dim=3)
      >>> x.shape, x.dtype
      ((4, 6, 3), dtype('complex64'))

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, sections 3 and 6, example 4.1.
    """
    checks.typed_key(key)
    checks.at_least("length", length, 1)
    checks.at_least("dim", dim, 1)
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"`dtype` must be complex, got {jnp.dtype(dtype)}.")
    (scale,) = checks.floating(scale=scale)
    checks.shape("scale", scale, ())
    real = real_dtype(dtype)
    shape = (*batch_shape, dim)
    key_initial, key_angle = jax.random.split(key)
    if callable(initial):
        u = initial(key_initial, shape, real)
        if jnp.shape(u) != shape:
            raise ValueError(
                f"`initial` must return shape {shape}, got {jnp.shape(u)}."
            )
    else:
        checks.one_of("initial", initial, INITIAL_LAWS)
        u = _sample_initial(key_initial, shape=shape, law=initial, dtype=real)
    angle = jax.random.uniform(key_angle, shape, real, 0.0, 2 * jnp.pi)
    phase = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
    return ar_sequences(u * scale.astype(real), phase, length=length)


@jit(static_argnames=("shape", "law", "dtype"))
def _sample_initial(
    key: Key, *, shape: tuple[int, ...], law: str, dtype: DTypeLike
) -> jax.Array:
    if law == "gaussian":
        return jax.random.normal(key, shape, dtype)
    if law == "uniform":
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
    if law == "rademacher":
        return jax.random.rademacher(key, shape, dtype)
    if law == "ones":
        return jnp.ones(shape, dtype)
    key_index, key_sign = jax.random.split(key)
    index = jax.random.randint(key_index, shape[:-1], 0, shape[-1])
    sign = jax.random.rademacher(key_sign, (*shape[:-1], 1), dtype)
    return sign * jax.nn.one_hot(index, shape[-1], dtype=dtype)
