"""Models of structure learning: each node a function of the others."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import dag
from jaxkit._core import checks
from jaxkit.typing import ArrayLike, DTypeLike

__all__ = ["LinearSEM", "MaskedMLP"]

Initializer: TypeAlias = jax.nn.initializers.Initializer

_zeros = nnx.initializers.zeros_init()


def _masked(kernel: jax.Array, adjacency: ArrayLike | None) -> jax.Array:
    """A kernel without self-loops and without what a graph does not allow."""
    d = kernel.shape[0]
    kept = ~jnp.eye(d, dtype=bool)
    if adjacency is not None:
        mask = jnp.asarray(adjacency)
        checks.shape("adjacency", mask, (d, d))
        kept = kept & (mask != 0)
    return jnp.where(kept, kernel, 0.0)


class LinearSEM(nnx.Module):
    r"""Predicts every node linearly from those that a graph allows.

    .. math:: \hat x = x\, (W \circ M)

    The diagonal takes no part. With the mask of an order the least-squares optimum is
    :func:`jaxkit.dag.ols_given_order`.

    Args:
      num_nodes: the number ``d`` of nodes, at least 2.
      param_dtype: dtype of the weights.
      precision: precision of the matrix product.
      kernel_init: how the weights start; zero by default, as methods of this family do.
      rngs: the random streams of Flax; ``kernel_init`` draws from ``params``.

    Raises:
      ValueError: if ``num_nodes`` is less than 2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> model = jaxkit.nn.LinearSEM(3, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((5, 3))).shape
      (5, 3)

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 2.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _zeros,
        rngs: nnx.Rngs,
    ):
        checks.at_least("num_nodes", num_nodes, 2)
        shape = (num_nodes, num_nodes)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.precision = precision

    def weights(self, adjacency: ArrayLike | None = None) -> jax.Array:
        """The weights that take part, entry ``[i, j]`` for ``i -> j``."""
        return _masked(self.kernel[...], adjacency)

    def __call__(self, x: jax.Array, adjacency: ArrayLike | None = None) -> jax.Array:
        """Predicts ``[..., d]`` from ``[..., d]`` along the edges ``[d, d]``."""
        weights = self.weights(adjacency)
        checks.shape("x", x, (weights.shape[0],))
        return jnp.matmul(x, weights.astype(x.dtype), precision=self.precision)


class MaskedMLP(nnx.Module):
    r"""Predicts every node by a network of its own from those that a graph allows.

    .. math:: f_j(x) = v_j^\top \sigma\Bigl(\sum_{k \to j} A_{kj} x_k + a_j\Bigr) + c_j

    A wrapper of :func:`jaxkit.dag.mlp_predict`. The graph is an argument of the call, so
    that one model serves all orders. Its property ``params`` is what
    :func:`jaxkit.dag.mlp_order_search` starts from, and ``load_params`` takes what that
    returns.

    Args:
      num_nodes: the number ``d`` of nodes, at least 2.
      num_hidden: hidden units of each network, at least 1.
      use_bias: whether there are biases.
      param_dtype: dtype of the parameters.
      precision: precision of the matrix products.
      rngs: the random streams of Flax; draws from ``params``.

    Raises:
      ValueError: if a number is too small.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> model = jaxkit.nn.MaskedMLP(3, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((5, 3)), jnp.eye(3, k=1)).shape
      (5, 3)

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023;
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 4.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        num_hidden: int = 40,
        use_bias: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        params = dag.init_mlp(
            rngs.params(),
            num_nodes,
            num_hidden=num_hidden,
            bias=use_bias,
            dtype=param_dtype,
        )
        bias = lambda leaf: None if leaf is None else nnx.Param(leaf)
        self.hidden = nnx.Param(params.hidden)
        self.hidden_bias = bias(params.hidden_bias)
        self.out = nnx.Param(params.out)
        self.out_bias = bias(params.out_bias)
        self.precision = precision

    @property
    def params(self) -> dag.MlpParams:
        """The parameters in the form that the functions of the system take."""
        value = lambda param: None if param is None else param[...]
        return dag.MlpParams(
            hidden=self.hidden[...],
            hidden_bias=value(self.hidden_bias),
            out=self.out[...],
            out_bias=value(self.out_bias),
        )

    def load_params(self, params: dag.MlpParams) -> None:
        """Takes parameters of the same shapes, such as those of a search."""
        for name, leaf in params._asdict().items():
            param = getattr(self, name)
            if (param is None) != (leaf is None):
                raise ValueError(
                    f"`params.{name}` must be None just where the model's is."
                )
            if param is not None:
                checks.shape(f"params.{name}", leaf, param[...].shape)
                param[...] = leaf.astype(param[...].dtype)

    def weights(self) -> jax.Array:
        """How strongly each node enters each network: ``[d, d]``."""
        return dag.mlp_adjacency(self.params)

    def __call__(self, x: jax.Array, adjacency: ArrayLike | None = None) -> jax.Array:
        """Predicts ``[..., d]`` from ``[..., d]`` along the edges ``[d, d]``."""
        return dag.mlp_predict(self.params, x, adjacency, precision=self.precision)
