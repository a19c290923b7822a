"""Samples of models in which each node is a random function of its parents."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges, topological_order
from jaxkit.typing import ArrayLike, DTypeLike, Key

__all__ = ["sample_nonlinear_sem"]

HIGHEST = jax.lax.Precision.HIGHEST
FUNCTIONS = ("mlp", "mim", "gp", "gp_add")
_HIDDEN = 100


@jit(static_argnames=("num_samples", "function", "dtype"))
def sample_nonlinear_sem(
    key: Key,
    adjacency: ArrayLike,
    num_samples: int,
    *,
    function: str = "mlp",
    scale: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    r"""Samples data from a model with random functions and additive Gaussian noise.

    .. math:: x_j = f_j(x_{\mathrm{pa}(j)}) + s_j e_j, \qquad f_j = 0
        \text{ without parents}

    with :math:`f_j` of one of four kinds: ``"mlp"``, a network of 100 sigmoids;
    ``"mim"``, :math:`\tanh(x a) + \cos(x b) + \sin(x c)`; both with weights of random
    sign and size between 0.5 and 2; ``"gp"``, a Gaussian process with the kernel
    :math:`\exp(-\|x - x'\|^2 / 2)`; ``"gp_add"``, a sum of one such process per parent.
    The processes factor an ``n x n`` matrix for every node, with a diagonal of
    ``10 n`` rounding errors added.

    Args:
      key: a typed random key.
      adjacency: weights or marks of an acyclic graph, entry ``[i, j]`` not zero where
        ``i -> j``, shape ``[d, d]``. With a cycle the result is NaN.
      num_samples: the number ``n`` of rows, at least 1; static.
      function: the kind of function; static.
      scale: what the noise of each node is multiplied by, a scalar or ``[d]``.
      dtype: a floating dtype, at least float32; None means the default one. Static.

    Returns:
      The data, shape ``[n, d]``.

    Raises:
      TypeError: if ``key`` is not a typed key or ``scale`` not real.
      ValueError: if a shape does not fit or ``function`` is unknown.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> chain = jnp.eye(3, k=1)
      >>> dag.sample_nonlinear_sem(jax.random.key(0), chain, 5, function="mim").shape
      (5, 3)

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 5.
    """
    checks.typed_key(key)
    edges = as_edges("adjacency", adjacency)
    checks.at_least("num_samples", num_samples, 1)
    checks.one_of("function", function, FUNCTIONS)
    (scale,) = checks.floating(scale=scale)
    d = edges.shape[0]
    checks.broadcastable("scale", scale, (d,))
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    order = topological_order(edges)
    position = jnp.argsort(order)
    acyclic = jnp.all((position[:, None] < position[None, :]) | ~edges)
    key_noise, key_function = jax.random.split(key)
    noise = jax.random.normal(key_noise, (num_samples, d), dtype)
    noise = noise * jnp.broadcast_to(scale.astype(dtype), (d,))[None, :]
    sample = {"mlp": _mlp, "mim": _mim, "gp": _process, "gp_add": _additive}[function]

    def draw(x: jax.Array, node: jax.Array) -> tuple[jax.Array, None]:
        key = jax.random.fold_in(key_function, node)
        parents = edges[:, node]
        value = jnp.where(jnp.any(parents), sample(key, x, parents), 0.0)
        return x.at[:, node].set(value + noise[:, node]), None

    start = jnp.zeros((num_samples, d), dtype)
    x, _ = jax.lax.scan(draw, start, order)
    return jnp.where(acyclic, x, jnp.nan)


def _signed(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    key_size, key_sign = jax.random.split(key)
    size = jax.random.uniform(key_size, shape, dtype, 0.5, 2.0)
    return size * jax.random.rademacher(key_sign, shape, dtype)


def _mlp(key: Key, x: jax.Array, parents: jax.Array) -> jax.Array:
    key_in, key_out = jax.random.split(key)
    inner = _signed(key_in, (x.shape[1], _HIDDEN), x.dtype)
    outer = _signed(key_out, (_HIDDEN,), x.dtype)
    inner = jnp.where(parents[:, None], inner, 0.0)
    hidden = jax.nn.sigmoid(jnp.matmul(x, inner, precision=HIGHEST))
    return jnp.matmul(hidden, outer, precision=HIGHEST)


def _mim(key: Key, x: jax.Array, parents: jax.Array) -> jax.Array:
    weights = jnp.where(parents[:, None], _signed(key, (x.shape[1], 3), x.dtype), 0.0)
    a, b, c = jnp.matmul(x, weights, precision=HIGHEST).T
    return jnp.tanh(a) + jnp.cos(b) + jnp.sin(c)


def _process(key: Key, x: jax.Array, parents: jax.Array) -> jax.Array:
    x = jnp.where(parents[None, :], x, 0.0)
    # Differences, not inner products: those cancel where samples are close.
    distance = jax.lax.fori_loop(
        0,
        x.shape[1],
        lambda i, total: total + (x[:, i, None] - x[None, :, i]) ** 2,
        jnp.zeros((x.shape[0], x.shape[0]), x.dtype),
    )
    return _draw(key, jnp.exp(-0.5 * distance))


def _additive(key: Key, x: jax.Array, parents: jax.Array) -> jax.Array:
    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        kernel = jnp.exp(-0.5 * (x[:, i, None] - x[None, :, i]) ** 2)
        return total + jnp.where(parents[i], kernel, 0.0)

    start = jnp.zeros((x.shape[0], x.shape[0]), x.dtype)
    # A sum of independent processes has the sum of their kernels.
    return _draw(key, jax.lax.fori_loop(0, x.shape[1], add, start))


def _draw(key: Key, kernel: jax.Array) -> jax.Array:
    n = kernel.shape[0]
    jitter = 10.0 * n * jnp.finfo(kernel.dtype).eps * jnp.maximum(kernel[0, 0], 1.0)
    eye = jnp.eye(n, dtype=kernel.dtype)
    lower = jnp.linalg.cholesky(kernel + jitter * eye, symmetrize_input=False)
    return jnp.matmul(
        lower, jax.random.normal(key, (n,), kernel.dtype), precision=HIGHEST
    )
