"""The in-context least-squares problem that the trained layer solves by one step."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["ols_gradient_step"]


@jit()
def ols_gradient_step(
    x: ArrayLike, *, step_size: ArrayLike, initial: ArrayLike | None = None
) -> jax.Array:
    r"""Takes one gradient step on the least-squares problem of each context.

    .. math:: \hat W_t = M_0 + \frac{\eta}{t-1} \sum_{i=1}^{t-1}
       (x_{i+1} - M_0 x_i)\, x_i^*, \qquad t = 2, \dots, T-1

    From ``M_0 = 0`` and with ``eta = a b`` the prediction ``W_hat_t x_t`` is that of
    the trained layer: :func:`lsa_predict` with ``A = a I`` and ``B = b I``. The
    gradient is taken in the convention ``d/dRe + i d/dIm``; JAX returns its
    conjugate.

    Args:
      x: the sequences, real or complex, shape ``[..., T, dim]`` with ``T >= 3``.
      step_size: ``eta``, a scalar.
      initial: ``M_0``, shape ``[dim, dim]`` or ``[..., dim, dim]``; None means 0.

    Returns:
      The estimates ``W_hat``, shape ``[..., T-2, dim, dim]``, at least float32.

    Raises:
      TypeError: if an argument is not floating or complex.
      ValueError: if a shape does not fit or ``T`` is less than 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> x = mesa.ar_sequences(jnp.ones(2), jnp.array([1.0, -1.0]), length=4)
      >>> print(mesa.ols_gradient_step(x, step_size=1.0)[-1])
      [[ 1.  0.]
       [ 0. -1.]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, corollary 4.1.
    """
    (x,) = checks.inexact(x=x)
    (step_size,) = checks.floating(step_size=step_size)
    checks.shape("step_size", step_size, ())
    checks.shape("x", x, (None, None))
    checks.axis_size("x", x, -2, 3)
    dtype = accumulation_dtype(x)
    if initial is not None:
        (initial,) = checks.inexact(initial=initial)
        checks.broadcastable(
            "initial", initial, (*x.shape[:-2], x.shape[-1], x.shape[-1])
        )
        dtype = accumulation_dtype(x, initial)
    x = x.astype(dtype)
    tokens, residual = x[..., :-2, :], x[..., 1:-1, :]
    start = jnp.zeros((), dtype)
    if initial is not None:
        start = initial.astype(dtype)[..., None, :, :]
        residual = (
            residual
            - jnp.matmul(start, tokens[..., None], precision=jax.lax.Precision.HIGHEST)[
                ..., 0
            ]
        )
    outer = residual[..., :, None] * tokens.conj()[..., None, :]
    total = jnp.cumsum(outer, axis=-3)
    count = jnp.arange(1, x.shape[-2] - 1).astype(dtype)[:, None, None]
    start, total, count = jnp.broadcast_arrays(start, total, count)
    return start + (step_size.astype(dtype) / count) * total
