"""One small network for each node, with any set of the others as inputs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.ops import safe_norm
from jaxkit.typing import ArrayLike, DTypeLike, Key, PrecisionLike

__all__ = [
    "MlpParams",
    "checked_mlp",
    "init_mlp",
    "mlp_adjacency",
    "mlp_loss",
    "mlp_predict",
    "node_losses",
]


class MlpParams(NamedTuple):
    """Networks with one hidden layer, a node each.

    Attributes:
      hidden: entry ``[k, j]`` holds the weights of input ``k`` in the network of ``j``,
        shape ``[d, d, m]``.
      hidden_bias: shape ``[d, m]``, or None.
      out: the weights of the second layer, shape ``[d, m]``.
      out_bias: shape ``[d]``, or None.
    """

    hidden: jax.Array
    hidden_bias: jax.Array | None
    out: jax.Array
    out_bias: jax.Array | None


@jit(static_argnames=("num_nodes", "num_hidden", "bias", "dtype"))
def init_mlp(
    key: Key,
    num_nodes: int,
    *,
    num_hidden: int = 10,
    bias: bool = True,
    dtype: DTypeLike | None = None,
) -> MlpParams:
    r"""Draws networks with uniform weights of the size of a default linear layer.

    .. math:: w \sim U\bigl(-1/\sqrt{d}, 1/\sqrt{d}\bigr), \qquad
        v \sim U\bigl(-1/\sqrt{m}, 1/\sqrt{m}\bigr)

    Args:
      key: a typed random key.
      num_nodes: the number ``d`` of nodes, at least 2; static.
      num_hidden: the number ``m`` of hidden units of each network, at least 1; static.
      bias: whether there are biases; static.
      dtype: a floating dtype; None means the default one. Static.

    Returns:
      The parameters. A node has no weight to itself.

    Raises:
      TypeError: if ``key`` is not a typed key.
      ValueError: if a number is too small.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> dag.init_mlp(jax.random.key(0), 3).hidden.shape
      (3, 3, 10)

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 4.
    """
    checks.typed_key(key)
    checks.at_least("num_nodes", num_nodes, 2)
    checks.at_least("num_hidden", num_hidden, 1)
    d, m = num_nodes, num_hidden
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    keys = jax.random.split(key, 4)
    draw = lambda key, shape, size: jax.random.uniform(
        key, shape, dtype, -(size**-0.5), size**-0.5
    )
    off = ~jnp.eye(d, dtype=bool)
    return MlpParams(
        hidden=jnp.where(off[..., None], draw(keys[0], (d, d, m), d), 0.0),
        hidden_bias=draw(keys[1], (d, m), d) if bias else None,
        out=draw(keys[2], (d, m), m),
        out_bias=draw(keys[3], (d,), m) if bias else None,
    )


def checked_mlp(params: MlpParams) -> MlpParams:
    """Checks the shapes of networks."""
    if not isinstance(params, MlpParams):
        raise TypeError(
            f"`params` must be MlpParams made by init_mlp, got {type(params).__name__}."
        )
    hidden, out = checks.floating(
        **{"params.hidden": params.hidden, "params.out": params.out}
    )
    if hidden.ndim != 3 or hidden.shape[0] != hidden.shape[1]:
        raise ValueError(
            f"`params.hidden` must have shape (d, d, m), got {hidden.shape}."
        )
    checks.shape("params.out", out, hidden.shape[1:])
    return MlpParams(hidden, params.hidden_bias, out, params.out_bias)


@jit(static_argnames=("precision",))
def mlp_predict(
    params: MlpParams,
    x: ArrayLike,
    adjacency: ArrayLike | None = None,
    *,
    precision: PrecisionLike = None,
) -> jax.Array:
    r"""Predicts every node from its inputs.

    .. math:: f_j(x) = v_j^\top \sigma\Bigl(\sum_{k \to j} A_{kj} x_k + a_j\Bigr) + c_j

    with the sigmoid :math:`\sigma`.

    Args:
      params: the networks, from :func:`init_mlp`.
      x: the data, shape ``[..., d]``.
      adjacency: weights or marks, entry ``[k, j]`` not zero where ``k`` is an input of
        ``j``, shape ``[d, d]``; None means all. A node is never its own input.
      precision: of the matrix products; static.

    Returns:
      The predictions, shape ``[..., d]``, at least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> params = dag.init_mlp(jax.random.key(0), 3)
      >>> dag.mlp_predict(params, jnp.ones((5, 3))).shape
      (5, 3)

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 4.1.
    """
    params = checked_mlp(params)
    (x,) = checks.floating(x=x)
    d, _, m = params.hidden.shape
    checks.shape("x", x, (d,))
    dtype = accumulation_dtype(x, params.hidden)
    kept = ~jnp.eye(d, dtype=bool)
    if adjacency is not None:
        edges = as_edges("adjacency", adjacency)
        checks.shape("adjacency", edges, (d, d))
        kept = kept & edges
    wide = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    hidden = jnp.where(kept[..., None], wide.hidden, 0.0).reshape(d, d * m)
    before = jnp.matmul(x.astype(dtype), hidden, precision=precision)
    before = before.reshape(*x.shape[:-1], d, m)
    unit = lambda leaf: leaf.reshape((1,) * (before.ndim - leaf.ndim) + leaf.shape)
    if wide.hidden_bias is not None:
        before = before + unit(wide.hidden_bias)
    out = jnp.sum(jax.nn.sigmoid(before) * unit(wide.out), axis=-1)
    if wide.out_bias is not None:
        out = out + wide.out_bias.reshape((1,) * (out.ndim - 1) + (d,))
    return out


@jit()
def mlp_adjacency(params: MlpParams) -> jax.Array:
    r"""How strongly each node enters the network of each other.

    .. math:: W_{kj} = \|A_{kj}\|_2

    It is zero exactly where the network of ``j`` does not depend on ``k`` through its
    first layer, and has a gradient of zero there.

    Args:
      params: the networks, from :func:`init_mlp`.

    Returns:
      The norms, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``params`` is not a :class:`MlpParams`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> print(dag.mlp_adjacency(dag.init_mlp(jax.random.key(0), 3))[0, 0])
      0.0

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 4.1.
    """
    hidden = checked_mlp(params).hidden
    return safe_norm(hidden.astype(accumulation_dtype(hidden)), axis=-1)


def node_losses(
    params: MlpParams,
    x: jax.Array,
    edges: jax.Array | None,
    l1: jax.Array,
    l2: jax.Array,
) -> jax.Array:
    """The penalized loss of every node; their sum is the loss of the model."""
    error = x - mlp_predict(params, x, edges)
    kept = ~jnp.eye(x.shape[1], dtype=bool)
    kept = kept if edges is None else kept & edges
    hidden = jnp.where(kept[..., None], params.hidden, 0.0)
    squares = jnp.sum(hidden**2, axis=(0, 2)) + jnp.sum(params.out**2, axis=1)
    fit = 0.5 * jnp.mean(error**2, axis=0)
    return fit + 0.5 * l2 * squares + l1 * jnp.sum(jnp.abs(hidden), axis=(0, 2))


@jit()
def mlp_loss(
    params: MlpParams,
    x: ArrayLike,
    adjacency: ArrayLike | None = None,
    *,
    l1: ArrayLike = 0.01,
    l2: ArrayLike = 0.01,
) -> jax.Array:
    r"""Penalized least squares of the network of every node.

    .. math:: \tfrac{1}{2n} \|x_j - f_j(X)\|^2 + \lambda_1 \|A_j\|_1
        + \tfrac{\lambda_2}{2} \bigl(\|A_j\|^2 + \|v_j\|^2\bigr)

    Nothing couples the nodes: the best networks given an order are found one by one.
    Biases are not penalized.

    Args:
      params: the networks, from :func:`init_mlp`.
      x: the data, one row per sample, shape ``[n, d]``.
      adjacency: which nodes are inputs of which, see :func:`mlp_predict`; weights of
        others do not count.
      l1: :math:`\lambda_1`, a scalar.
      l2: :math:`\lambda_2`, a scalar.

    Returns:
      The loss of each node, shape ``[d]``, at least float32.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (50, 3))
      >>> dag.mlp_loss(dag.init_mlp(jax.random.key(1), 3), x).shape
      (3,)

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 4.
    """
    params = checked_mlp(params)
    x, l1, l2 = checks.floating(x=x, l1=l1, l2=l2)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (n, d), got {x.shape}.")
    dtype = accumulation_dtype(x, params.hidden)
    x, l1, l2 = (a.astype(dtype) for a in (x, l1, l2))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    edges = None if adjacency is None else as_edges("adjacency", adjacency)
    return node_losses(params, x, edges, l1, l2)
