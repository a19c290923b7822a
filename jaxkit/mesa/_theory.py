"""The reduced theory: constants, limits, losses and risks on the diagonal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.mesa._moments import Moments
from jaxkit.mesa._validate import broadcast_real
from jaxkit.typing import ArrayLike

__all__ = [
    "asymptotic_risk",
    "context_risk",
    "diagonal_loss",
    "expected_ratio",
    "flow_constants",
    "limit_product",
    "loss_weights",
    "real_moments",
]


def loss_weights(length: int) -> tuple[float, float, float]:
    """Gives the sums of ``(t-1)^0, (t-1)^-1, (t-1)^-2`` over ``t = 2..length-1``."""
    checks.at_least("length", length, 3)
    inverse = 1.0 / np.arange(1, length - 1)
    return float(length - 2), float(inverse.sum()), float(np.square(inverse).sum())


class RealMoments(NamedTuple):
    """Moments turned into arrays of one shape and dtype."""

    m2: jax.Array
    k1: jax.Array
    k2: jax.Array
    k3: jax.Array
    m42: jax.Array
    m222: jax.Array


def real_moments(
    moments: Moments, **extra: ArrayLike
) -> tuple[RealMoments, list[jax.Array]]:
    """Broadcasts the moments and further arrays to one shape and dtype."""
    named = {f"moments.{name}": value for name, value in moments._asdict().items()}
    arrays = broadcast_real(**named, **extra)
    return RealMoments(*arrays[: len(named)]), arrays[len(named) :]


@jit(static_argnames=("length",))
def flow_constants(moments: Moments, *, length: int) -> tuple[jax.Array, jax.Array]:
    r"""Computes the two constants of the reduced gradient flow.

    .. math:: c_1 = (T-2)\kappa_2 + \kappa_3 \sum_{t=2}^{T-1} \frac{1}{t-1},
       \qquad c_2 = (T-2)\kappa_1

    Args:
      moments: the moments of the first token, each of shape ``[...]``.
      length: the number of tokens ``T``, at least 3; static.

    Returns:
      ``(c1, c2)``, each of shape ``[...]``, at least float32.

    Raises:
      TypeError: if a moment is not real.
      ValueError: if ``length`` is less than 3.

    Examples:
      >>> from jaxkit import mesa
      >>> c1, c2 = mesa.flow_constants(mesa.gaussian_moments(5), length=100)
      >>> print(f"{c1:.3f} {c2:.1f}")
      1532.007 294.0

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, lemma 5.2.
    """
    s0, s1, _ = loss_weights(length)
    real, _ = real_moments(moments)
    return s0 * real.k2 + s1 * real.k3, s0 * real.k1


def limit_product(moments: Moments, *, length: int | None) -> jax.Array:
    r"""Computes the product ``a b`` to which the gradient flow converges.

    .. math:: \tilde a \tilde b = \frac{\kappa_1}{\kappa_2 + \frac{\kappa_3}{T-2}
       \sum_{t=2}^{T-1} \frac{1}{t-1}}

    With ``length=None`` it is the limit of infinite length, ``k1 / k2``: the dashed
    line of the paper's figures, which a finite training length never quite reaches.
    A start on ``a0 = -b0`` has no such limit: the flow then ends in the saddle 0.

    Args:
      moments: the moments of the first token, each of shape ``[...]``.
      length: the number of tokens ``T``, at least 3, or None; static.

    Returns:
      The product, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a moment is not real.
      ValueError: if ``length`` is less than 3, or the law is degenerate: ``k2`` or
        the denominator is not positive. Under ``jit`` and ``vmap``, where values are
        unknown, that second check is a :func:`jax.experimental.checkify.debug_check`.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(5)
      >>> print(f"{mesa.limit_product(moments, length=100):.6f}")
      0.191905
      >>> print(f"{mesa.limit_product(moments, length=None):.6f}")
      0.200000

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, theorem 4.1.
    """
    if length is not None:
        checks.at_least("length", length, 3)
    checks.positive(**{"moments.k2": moments.k2})
    numerator, denominator = _limit_fraction(moments, length=length)
    checks.positive(**{"moments: c1 / (T - 2)": denominator})
    return numerator / denominator


@jit(static_argnames=("length",))
def _limit_fraction(
    moments: Moments, *, length: int | None
) -> tuple[jax.Array, jax.Array]:
    real, _ = real_moments(moments)
    if length is None:
        return real.k1, real.k2
    s0, s1, _ = loss_weights(length)
    return real.k1, real.k2 + (s1 / s0) * real.k3


@jit(static_argnames=("length", "dim"))
def diagonal_loss(
    a: ArrayLike, b: ArrayLike, moments: Moments, *, length: int, dim: int
) -> jax.Array:
    r"""Computes the population loss at ``A = a I``, ``B = b I``.

    .. math:: L(a, b) = d \left[\tfrac12 (T-2)\, m_2 - c_2\, ab
       + \tfrac12 c_1 (ab)^2\right]

    Its derivative in the scalar ``a`` is ``dim`` times that of the reduced flow,
    because the flow acts on each diagonal entry separately.

    Args:
      a: the diagonal of the key-query block, shape ``[...]``.
      b: the diagonal of the projection-value block, shape ``[...]``.
      moments: the moments of the first token; all arguments broadcast together.
      length: the number of tokens ``T``, at least 3; static.
      dim: the token dimension ``d``, at least 1; static.

    Returns:
      The loss, summed over the ``T - 2`` predictions, shape ``[...]``, at least
      float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if ``length`` or ``dim`` is too small.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(2)
      >>> print(f"{mesa.diagonal_loss(0.6, 0.35, moments, length=4, dim=2):.5f}")
      1.00145

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, lemma 5.2, with the terms that do not depend on ``a b``.
    """
    checks.at_least("dim", dim, 1)
    s0, s1, _ = loss_weights(length)
    real, (a, b) = real_moments(moments, a=a, b=b)
    c1, c2 = s0 * real.k2 + s1 * real.k3, s0 * real.k1
    p = a * b
    return dim * (0.5 * s0 * real.m2 - c2 * p + 0.5 * c1 * jnp.square(p))


def asymptotic_risk(moments: Moments) -> jax.Array:
    r"""Computes the relative risk of the trained layer at infinite length.

    .. math:: R_\infty = 1 - \frac{\kappa_1^2}{m_2 \kappa_2} \ge 0

    It is 0, and the next token recovered, exactly when every coordinate of the first
    token is 0 or has one fixed modulus.

    Args:
      moments: the moments of the first token, each of shape ``[...]``.

    Returns:
      The risk divided by that of the zero predictor, shape ``[...]``.

    Raises:
      TypeError: if a moment is not real.
      ValueError: if ``m2`` or ``k2`` is known and not positive; a ``debug_check``
        under ``jit`` and ``vmap``.

    Examples:
      >>> from jaxkit import mesa
      >>> print(f"{mesa.asymptotic_risk(mesa.gaussian_moments(5)):.2f}")
      0.40

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, theorem 4.2.
    """
    checks.positive(**{"moments.m2": moments.m2, "moments.k2": moments.k2})
    return _asymptotic_risk(moments)


@jit()
def _asymptotic_risk(moments: Moments) -> jax.Array:
    real, _ = real_moments(moments)
    # Two ratios, not one of products: k1^2 may overflow where they do not.
    return 1.0 - (real.k1 / real.m2) * (real.k1 / real.k2)


@jit()
def context_risk(moments: Moments, product: ArrayLike, context: ArrayLike) -> jax.Array:
    r"""Computes the relative risk of a diagonal layer after a given context.

    .. math:: \frac{E\|\hat y_t - x_{t+1}\|^2}{E\|x\|^2} = \frac{m_2 - 2 p \kappa_1
       + p^2 \left(\kappa_2 + \kappa_3 / (t-1)\right)}{m_2}, \qquad p = ab

    Exact for laws that are invariant under the change of sign of any coordinate.

    Args:
      moments: the moments of the first token.
      product: ``p``; all arguments broadcast together.
      context: the number ``t`` of tokens seen, integer or real, at least 2.

    Returns:
      The risk divided by that of the zero predictor, shape ``[...]``, at least
      float32.

    Raises:
      TypeError: if ``moments`` or ``product`` is not real.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(5)
      >>> print(f"{mesa.context_risk(moments, 0.191905, 20):.4f}")
      0.4242

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 4.2.
    """
    context = jnp.asarray(context)
    if jnp.issubdtype(context.dtype, jnp.integer):
        context = context.astype(jnp.float32)
    real, (p, t) = real_moments(moments, product=product, context=context)
    noise = real.k2 + real.k3 / jnp.maximum(t - 1, 1)
    return 1.0 - (2 * p * real.k1 - jnp.square(p) * noise) / real.m2


@jit()
def expected_ratio(moments: Moments, product: ArrayLike) -> jax.Array:
    r"""Computes the mean ratio of a predicted coordinate to the true one.

    .. math:: E\left[\frac{\hat y_{t,j}}{x_{t+1,j}}\right] = a b\, m_2
       \quad\text{for every } t \ge 2

    For the Gaussian law and the limit of training it tends to 1/5 with the training
    length, whatever the variance: the trained layer shrinks the next token.

    Args:
      moments: the moments of the first token.
      product: ``a b``; broadcasts with the moments.

    Returns:
      The mean ratio, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.

    Examples:
      >>> from jaxkit import mesa
      >>> moments = mesa.gaussian_moments(5, scale=2.0)
      >>> product = mesa.limit_product(moments, length=None)
      >>> print(f"{mesa.expected_ratio(moments, product):.3f}")
      0.200

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, proposition 4.1.
    """
    real, (product,) = real_moments(moments, product=product)
    return product * real.m2
