"""Kernels of fixed features, of distances and of random networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._ridge import check_features
from jaxkit.distillation._solvers import matmul
from jaxkit.ops import squared_distances
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["linear_kernel", "random_feature_kernel", "rbf_kernel"]


@jit()
def linear_kernel(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Computes the inner products of all pairs at full precision.

    .. math:: K_{ij} = x_i^\top y_j

    Args:
      x: points or features, shape ``[n, p]``.
      y: points or features, shape ``[m, p]``.

    Returns:
      The kernel, shape ``[n, m]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> print(distillation.linear_kernel(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])))
      [[11.]]
    """
    x, y = checks.floating(x=x, y=y)
    check_features(x=x, y=y)
    dtype = accumulation_dtype(x, y)
    return matmul(x.astype(dtype), y.astype(dtype).T)


@jit()
def rbf_kernel(x: ArrayLike, y: ArrayLike, *, gamma: ArrayLike = 1.0) -> jax.Array:
    r"""Computes the Gaussian kernel of all pairs.

    .. math:: K_{ij} = \exp(-\gamma \|x_i - y_j\|^2)

    Args:
      x: points, shape ``[n, p]``.
      y: points, shape ``[m, p]``.
      gamma: the inverse squared length.

    Returns:
      The kernel, shape ``[n, m]``, at least float32; its gradient at coincident points
      is 0.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit or are empty.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> print(distillation.rbf_kernel(jnp.zeros((1, 2)), jnp.zeros((1, 2))))
      [[1.]]
    """
    x, y, gamma = checks.floating(x=x, y=y, gamma=gamma)
    check_features(x=x, y=y)
    distances = squared_distances(x, y)
    return jnp.exp(-gamma.astype(distances.dtype) * distances)


def random_feature_kernel(
    embed: Callable[[PyTree, jax.Array], jax.Array],
    params: PyTree,
    x: jax.Array,
    y: jax.Array,
) -> jax.Array:
    r"""Estimates the kernel of a wide network by the features of random ones.

    .. math:: K_{ij} = \frac{1}{M d} \sum_{m=1}^M f_m(x_i)^\top f_m(y_j)

    With weights drawn afresh its mean is the covariance of the last hidden layer, and
    its error falls with the root of ``M d``. RFAD uses ``2 K + 0.01``. Not compiled by
    itself, for it takes a callable.

    Args:
      embed: maps parameters and inputs to features of shape ``[n, ...]``, flattened.
      params: parameters of the ``M`` networks, every leaf stacked along axis 0.
      x: inputs, shape ``[n, ...]``.
      y: inputs, shape ``[m, ...]``.

    Returns:
      The kernel, shape ``[n, m]``, at least float32.

    Raises:
      ValueError: if ``params`` is empty or its leaves differ along axis 0.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> weights = jax.random.normal(jax.random.key(0), (8, 2, 512))
      >>> embed = lambda w, x: jax.nn.relu(x @ w)
      >>> x = jnp.array([[1.0, 0.0]])
      >>> kernel = distillation.random_feature_kernel(embed, weights, x, x)
      >>> print(f"{kernel[0, 0]:.1f}")  # E relu(w)^2 = 1/2
      0.5

    References:
      Loo et al., *Efficient Dataset Distillation using Random Feature Approximation*,
      NeurIPS 2022.
    """
    leaves = jax.tree.leaves(params)
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(counts) != 1 or counts <= {None, 0}:
        raise ValueError(
            "`params` must have leaves stacked along axis 0, equally many and at least "
            f"one, got shapes {[leaf.shape for leaf in leaves]}."
        )
    features = [_all_features(embed, params, inputs) for inputs in (x, y)]
    return linear_kernel(*features) / features[0].shape[1]


def _all_features(
    embed: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, inputs: jax.Array
) -> jax.Array:
    """Concatenates the features of all networks, shape ``[n, M * d]``."""
    features = jax.vmap(embed, in_axes=(0, None))(params, inputs)
    return jnp.moveaxis(features, 0, 1).reshape(features.shape[1], -1)
