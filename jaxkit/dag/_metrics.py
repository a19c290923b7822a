"""How close an estimated graph is to the true one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._order import as_order
from jaxkit.dag._stats import square
from jaxkit.typing import ArrayLike

__all__ = ["Accuracy", "count_accuracy", "order_divergence"]


class Accuracy(NamedTuple):
    """Rates and counts of :func:`count_accuracy`, all scalars.

    Attributes:
      fdr: the share of wrong edges, reversed ones included, among those estimated.
      tpr: the share of true edges that were found.
      fpr: wrong edges, reversed ones included, per pair that has no true edge.
      shd: the structural Hamming distance: edges to add, remove or reverse, int32.
      nnz: the number of estimated edges, int32.
    """

    fdr: jax.Array
    tpr: jax.Array
    fpr: jax.Array
    shd: jax.Array
    nnz: jax.Array


@jit()
def count_accuracy(estimate: ArrayLike, truth: ArrayLike) -> Accuracy:
    r"""Compares an estimated graph with the true one.

    .. math:: \mathrm{SHD} = \#\text{missing} + \#\text{extra} + \#\text{reversed}

    A reversed edge counts once. An undirected edge of the estimate is right where the
    truth joins the two nodes in either direction.

    Args:
      estimate: bool, or integers 0 and 1, entry ``[i, j]`` for ``i -> j``, shape
        ``[d, d]``; an undirected edge is an entry -1 at one of its two places.
      truth: bool, or integers 0 and 1, of the same shape; acyclic.

    Returns:
      The rates, float32, and counts.

    Raises:
      TypeError: if an argument is neither bool nor integer; threshold weights first.
      ValueError: if an argument is not square or the shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> truth = jnp.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
      >>> estimate = jnp.array([[0, 1, 0], [0, 0, 0], [0, 1, 0]])
      >>> print(dag.count_accuracy(estimate, truth).shd)
      2

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 5 and its code.
    """
    estimate, truth = _marks("estimate", estimate), _marks("truth", truth)
    if estimate.shape != truth.shape:
        raise ValueError(
            "`estimate` and `truth` must have the same shape, got "
            f"{estimate.shape} and {truth.shape}."
        )
    true = truth != 0
    skeleton = true | true.T
    directed, undirected = estimate > 0, estimate < 0
    count = lambda marks: jnp.sum(marks, dtype=jnp.int32)
    found = count(directed & true) + count(undirected & skeleton)
    reversed_ = count(directed & true.T & ~true)
    wrong = reversed_ + count((directed | undirected) & ~skeleton)
    num_true, num_found = count(true), count(directed | undirected)
    d = true.shape[0]
    joined = directed | undirected
    differing = count(jnp.triu((joined | joined.T) != skeleton))
    ratio = lambda part, whole: (
        part.astype(jnp.float32) / jnp.maximum(whole, 1).astype(jnp.float32)
    )
    return Accuracy(
        fdr=ratio(wrong, num_found),
        tpr=ratio(found, num_true),
        fpr=ratio(wrong, d * (d - 1) // 2 - num_true),
        shd=differing + reversed_,
        nnz=num_found,
    )


def _marks(name: str, value: ArrayLike) -> jax.Array:
    array = jnp.asarray(value)
    square(name, array)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.int32)
    if not jnp.issubdtype(array.dtype, jnp.signedinteger):
        raise TypeError(
            f"`{name}` must be bool or signed integer, got {array.dtype}; threshold "
            "weights first."
        )
    return array


@jit()
def order_divergence(order: ArrayLike, adjacency: ArrayLike) -> jax.Array:
    r"""Counts the edges that an order makes impossible.

    .. math:: D = \sum_{i \to j} [\,\mathrm{pos}(i) > \mathrm{pos}(j)\,]

    Args:
      order: the nodes, parents first, integers, shape ``[d]``.
      adjacency: weights or marks of the true graph, entry ``[i, j]`` not zero where
        ``i -> j``, shape ``[d, d]``.

    Returns:
      The count, int32: a lower bound of the structural Hamming distance of any graph
      that respects the order.

    Raises:
      TypeError: if ``order`` does not hold integers.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.order_divergence(jnp.array([1, 0, 2]), jnp.eye(3, k=1)))
      1

    References:
      Rolland et al., *Score Matching Enables Causal Discovery of Nonlinear Additive
      Noise Models*, ICML 2022, section 5.
    """
    edges = as_edges("adjacency", adjacency)
    position = jnp.argsort(as_order(order, edges.shape[0]))
    backward = position[:, None] > position[None, :]
    return jnp.sum(edges & backward, dtype=jnp.int32)
