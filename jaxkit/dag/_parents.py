"""Regressions on given sets of parents, and their BIC."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.ops import cholesky_solve
from jaxkit.typing import ArrayLike

__all__ = ["bic_score", "ols_given_parents"]

HIGHEST = jax.lax.Precision.HIGHEST

# Nodes solved side by side: more take more memory, each a d x d matrix.
_BATCH = 16


def _regress(
    stats: GramStats, adjacency: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Edges, weights by node (one row each) and residual variances."""
    gram = stats.gram
    edges = as_edges("adjacency", adjacency)
    checks.shape("adjacency", edges, gram.shape)
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    edges = edges & (eye == 0)

    def one(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        node, parents = inputs
        # Other nodes decouple: ones on their diagonal and nothing to explain.
        both = parents[:, None] & parents[None, :]
        matrix = jnp.where(both, gram, jnp.where(parents[:, None], 0.0, eye))
        target = jnp.where(parents, gram[:, node], 0.0)
        row = cholesky_solve(matrix, target[:, None])[:, 0]
        row = jnp.where(parents, row, 0.0)
        rest = eye[node] - row
        return row, rest @ jnp.matmul(gram, rest, precision=HIGHEST)

    nodes = jnp.arange(gram.shape[0], dtype=jnp.int32)
    size = min(_BATCH, gram.shape[0])
    rows, variances = jax.lax.map(one, (nodes, edges.T), batch_size=size)
    return edges, rows, variances


@jit()
def ols_given_parents(stats: GramStats, adjacency: ArrayLike) -> jax.Array:
    r"""Regresses every node on its parents.

    .. math:: w_{\mathrm{pa}(j), j} = G_{\mathrm{pa}(j), \mathrm{pa}(j)}^{-1}
        G_{\mathrm{pa}(j), j}

    By normal equations: what is left after edges were pruned is fitted anew. Wants
    float64 where parents are nearly collinear.

    Args:
      stats: the moments, from :func:`gram_stats`.
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``; the diagonal is not read.

    Returns:
      The weights, 0 where there is no edge, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.ols_given_parents(stats, jnp.array([[0, 1], [0, 0]])))
      [[0. 2.]
       [0. 0.]]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023.
    """
    return _regress(checked_stats(stats), adjacency)[1].T


@jit()
def bic_score(
    stats: GramStats, adjacency: ArrayLike, *, penalty: ArrayLike = 2.0
) -> jax.Array:
    r"""The Bayesian information criterion of every node given its parents.

    .. math:: -\tfrac{n}{2}\bigl(1 + \log \hat\sigma_j^2\bigr)
        - \lambda (|\mathrm{pa}(j)| + 1) \log n

    Higher is better. Their sum is the same for graphs with the same skeleton and
    v-structures, and scaling a column only adds a constant.

    Args:
      stats: the moments, from :func:`gram_stats`, of a finite number of samples.
      adjacency: weights or marks, entry ``[i, j]`` not zero where ``i -> j``, shape
        ``[d, d]``.
      penalty: :math:`\lambda`, a scalar; 1/2 is Schwarz's own.

    Returns:
      The score of each node, shape ``[d]``, at least float32.

    Raises:
      TypeError: if ``penalty`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0], [2.0, 5.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=100)
      >>> print(dag.bic_score(stats, jnp.array([[0, 1], [0, 0]])).round(2))
      [-59.21 -68.42]

    References:
      Andrews et al., *Fast Scalable and Accurate Discovery of DAGs Using the Best Order
      Score Search and Grow-Shrink Trees*, NeurIPS 2023.
    """
    stats = checked_stats(stats)
    (penalty,) = checks.floating(penalty=penalty)
    edges, _, variances = _regress(stats, adjacency)
    n = stats.num_samples
    size = jnp.sum(edges, axis=0).astype(n.dtype) + 1.0
    fit = -0.5 * n * (1.0 + jnp.log(variances))
    return fit - penalty.astype(n.dtype) * size * jnp.log(n)
