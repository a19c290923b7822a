"""Samples of models in which each node is linear in its parents."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import topological_order
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike, Key

__all__ = ["sample_linear_sem"]

HIGHEST = jax.lax.Precision.HIGHEST
ADDITIVE = ("gaussian", "exponential", "gumbel", "uniform")
NOISES = (*ADDITIVE, "logistic", "poisson")

# Rates beyond this do not fit the integers that the sampler returns.
_LARGEST_LOG_RATE = 20.0


@jit(static_argnames=("num_samples", "noise"))
def sample_linear_sem(
    key: Key,
    weights: ArrayLike,
    num_samples: int,
    *,
    noise: str = "gaussian",
    scale: ArrayLike = 1.0,
) -> jax.Array:
    r"""Samples data from a linear structural equation model.

    .. math:: x_j = \sum_i W_{ij} x_i + s_j e_j, \qquad X = E (I - W)^{-1}

    solved as one triangular system in topological order. ``"logistic"`` draws
    :math:`x_j \in \{0, 1\}` with log-odds :math:`\sum_i W_{ij} x_i` and ``"poisson"``
    counts with that log-rate, cut at 20; these two go through the nodes one by one and
    take no ``scale``.

    Args:
      key: a typed random key.
      weights: the weights of an acyclic graph, entry ``[i, j]`` for ``i -> j``, shape
        ``[d, d]``. With a cycle the result is NaN.
      num_samples: the number ``n`` of rows, at least 1; static.
      noise: ``"gaussian"``, ``"exponential"``, ``"gumbel"``, ``"uniform"`` on (-1, 1),
        ``"logistic"`` or ``"poisson"``; static. Exponential and Gumbel noise does not
        have zero mean.
      scale: what the noise of each node is multiplied by, a scalar or ``[d]``.

    Returns:
      The data, shape ``[n, d]``, in the dtype of ``weights``, at least float32.

    Raises:
      TypeError: if ``key`` is not a typed key or an argument not floating.
      ValueError: if a shape does not fit or ``noise`` is unknown.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.array([[0.0, 2.0], [0.0, 0.0]])
      >>> dag.sample_linear_sem(jax.random.key(0), w, 5).shape
      (5, 2)

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 5.
    """
    checks.typed_key(key)
    weights, scale = checks.floating(weights=weights, scale=scale)
    square("weights", weights)
    checks.at_least("num_samples", num_samples, 1)
    checks.one_of("noise", noise, NOISES)
    d = weights.shape[0]
    dtype = accumulation_dtype(weights)
    weights = weights.astype(dtype)
    order, acyclic = _order(weights)
    if noise in ADDITIVE:
        checks.broadcastable("scale", scale, (d,))
        errors = sample_noise(key, (num_samples, d), noise, dtype)
        errors = errors * jnp.broadcast_to(scale.astype(dtype), (d,))[None, :]
        x = _solve(weights, errors, order)
    else:
        x = _ancestral(key, weights, num_samples, order, noise)
    return jnp.where(acyclic, x, jnp.nan)


def _order(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    order = topological_order(weights)
    position = jnp.argsort(order)
    forward = position[:, None] < position[None, :]
    return order, jnp.all(forward | (weights == 0))


def sample_noise(
    key: Key, shape: tuple[int, ...], noise: str, dtype: jnp.dtype
) -> jax.Array:
    """Draws additive noise of unit scale."""
    if noise == "uniform":
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
    draw = {
        "gaussian": jax.random.normal,
        "exponential": jax.random.exponential,
        "gumbel": jax.random.gumbel,
    }[noise]
    return draw(key, shape, dtype)


def _solve(weights: jax.Array, errors: jax.Array, order: jax.Array) -> jax.Array:
    d = order.shape[0]
    upper = jnp.eye(d, dtype=weights.dtype) - weights[order[:, None], order[None, :]]
    x = jax.lax.linalg.triangular_solve(
        upper, errors[:, order], left_side=False, lower=False
    )
    return x[:, jnp.argsort(order)]


def _ancestral(
    key: Key, weights: jax.Array, num_samples: int, order: jax.Array, noise: str
) -> jax.Array:
    d = order.shape[0]

    def draw(x: jax.Array, node: jax.Array) -> tuple[jax.Array, None]:
        own = jax.random.fold_in(key, node)
        signal = jnp.matmul(x, weights[:, node], precision=HIGHEST)
        if noise == "logistic":
            value = jax.random.bernoulli(own, jax.nn.sigmoid(signal))
        else:
            rate = jnp.exp(jnp.minimum(signal, _LARGEST_LOG_RATE))
            value = jax.random.poisson(own, rate)
        return x.at[:, node].set(value.astype(x.dtype)), None

    start = jnp.zeros((num_samples, d), weights.dtype)
    return jax.lax.scan(draw, start, order)[0]
