"""Inner products of the gradients of log-probabilities, for any model."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import Precision

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._batch_loss import fill_examples, pair_mask
from jaxkit.entanglement._inputs import float_leaves, leading_size, same_batch
from jaxkit.entanglement._types import PairGram
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "LogProb",
    "batch_gram",
    "leaf_pair_gram",
    "pair_gram",
    "scalar_valued",
    "token_gram",
]

LogProb = Callable[[Any, Any], jax.Array]
METHODS = ("vmap", "scan")


def pair_gram(
    log_prob: LogProb,
    params: PyTree,
    chosen: PyTree,
    rejected: PyTree,
    *,
    method: str = "vmap",
    where: ArrayLike | None = None,
) -> PairGram:
    r"""Inner products of the two gradients of each pair, by one gradient an example.

    .. math:: \langle g_w, g_w \rangle, \quad \langle g_w, g_l \rangle, \quad
       \langle g_l, g_l \rangle, \qquad g_i = \nabla_\theta \log \pi_\theta(y_i)

    Works for every differentiable model, also with tied weights. ``params`` is what
    is differentiated: pass the leaves asked for (an adapter, one layer) and close
    over the rest. Not compiled: call it inside a compiled function.

    Args:
      log_prob: ``log_prob(params, example)``, the log-probability of one answer, a
        scalar.
      params: pytree of floating arrays.
      chosen: examples of the chosen answers, a pytree with leading axis ``B``.
      rejected: examples of the rejected answers, like ``chosen``.
      method: ``"vmap"`` takes all pairs at once and may keep all their gradients of
        a leaf; ``"scan"`` takes pair after pair and keeps the gradients of one.
      where: which pairs count, bool ``[B]``; the others may hold NaN and give 0.

    Returns:
      The products, each of shape ``[B]``, at least float32.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the batches differ, ``method`` is unknown, or ``log_prob`` does
        not return a scalar.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> def log_prob(table, tokens):
      ...     log_probs = jax.nn.log_softmax(table)
      ...     return log_probs[tokens[:-1], tokens[1:]].sum()
      >>> gram = entanglement.pair_gram(
      ...     log_prob, jnp.zeros((3, 3)), jnp.array([[0, 1, 2]]), jnp.array([[0, 1, 0]])
      ... )
      >>> print(*(f"{float(products[0]):.3f}" for products in gram))
      1.333 0.333 1.333

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025.
    """
    grams = leaf_pair_gram(
        log_prob, params, chosen, rejected, method=method, where=where
    )
    leaves = jax.tree.leaves(grams, is_leaf=lambda x: isinstance(x, PairGram))
    dtype = accumulation_dtype(*(leaf.cross for leaf in leaves))
    return PairGram(*(_total(parts, dtype) for parts in zip(*leaves, strict=True)))


def leaf_pair_gram(
    log_prob: LogProb,
    params: PyTree,
    chosen: PyTree,
    rejected: PyTree,
    *,
    method: str = "vmap",
    where: ArrayLike | None = None,
) -> PyTree:
    r"""The inner products of :func:`pair_gram` for every leaf of the parameters.

    .. math:: \langle g_i, g_j \rangle = \sum_{k} \langle g_i^{(k)}, g_j^{(k)} \rangle
       \quad \text{over the leaves } k

    Args:
      log_prob: ``log_prob(params, example)``, the log-probability of one answer, a
        scalar.
      params: pytree of floating arrays.
      chosen: examples of the chosen answers, a pytree with leading axis ``B``.
      rejected: examples of the rejected answers, like ``chosen``.
      method: ``"vmap"`` or ``"scan"``, see :func:`pair_gram`.
      where: which pairs count, bool ``[B]``; the others may hold NaN and give 0.

    Returns:
      A pytree like ``params`` with a :class:`PairGram` for every leaf.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the batches differ, ``method`` is unknown, or ``log_prob`` does
        not return a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> grams = entanglement.leaf_pair_gram(
      ...     lambda params, x: params["a"] * x + params["b"],
      ...     {"a": jnp.ones(()), "b": jnp.ones(())},
      ...     jnp.array([2.0]),
      ...     jnp.array([3.0]),
      ... )
      >>> print(grams["a"].cross, grams["b"].cross)
      [6.] [1.]
    """
    checks.one_of("method", method, METHODS)
    float_leaves(params=params)
    num_pairs = same_batch(chosen=chosen, rejected=rejected)
    if where is not None:
        where = pair_mask(where, num_pairs)
        chosen, rejected = fill_examples(chosen, where), fill_examples(rejected, where)
    gradient = jax.grad(scalar_valued(log_prob))

    def one_pair(pair: tuple[PyTree, PyTree]) -> PyTree:
        grads = (gradient(params, example) for example in pair)
        return jax.tree.map(_leaf_products, *grads)

    pairs = (chosen, rejected)
    if method == "vmap":
        grams = jax.vmap(one_pair)(pairs)
    else:
        grams = jax.lax.map(one_pair, pairs)
    return jax.tree.map(lambda x: masked_fill(x, where), grams)


def batch_gram(
    log_prob: LogProb,
    params: PyTree,
    examples: PyTree,
    *,
    chunk_size: int | None = None,
) -> jax.Array:
    r"""Inner products of the gradients of all examples with one another.

    .. math:: K_{ij} = \langle g_i, g_j \rangle

    What a gradient step on a batch does to each log-probability needs all of them,
    not only those within a pair.

    Args:
      log_prob: ``log_prob(params, example)``, a scalar.
      params: pytree of floating arrays.
      examples: a pytree with leading axis ``N``.
      chunk_size: how many gradients are kept on each side; None keeps all ``N`` at
        once. Gradients are then taken ``N / chunk_size`` times over.

    Returns:
      The Gram matrix, shape ``[N, N]``, at least float32.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the leading axes differ, ``chunk_size`` is less than 1, or
        ``log_prob`` does not return a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> x = jnp.array([[1.0, 0.0], [2.0, 1.0]])
      >>> print(entanglement.batch_gram(jnp.vdot, jnp.zeros(2), x))
      [[1. 2.]
       [2. 5.]]
    """
    float_leaves(params=params)
    num_examples = leading_size("examples", examples)
    size = num_examples if chunk_size is None else chunk_size
    checks.at_least("chunk_size", size, 1)
    gradient = jax.grad(scalar_valued(log_prob))

    def row(example: PyTree) -> jax.Array:
        grads = gradient(params, example)
        dots = lambda other: _tree_vdot(grads, gradient(params, other))
        return jax.lax.map(dots, examples, batch_size=size)

    if size >= num_examples:
        grads = jax.vmap(gradient, (None, 0))(params, examples)
        return _tree_matmul(grads, grads)
    return jax.lax.map(row, examples, batch_size=size)


def token_gram(
    token_log_probs: Callable[[Any, Any], jax.Array],
    params: PyTree,
    chosen: PyTree,
    rejected: PyTree,
    *,
    chunk_size: int | None = None,
) -> jax.Array:
    r"""Inner products of the gradients of single tokens of two answers.

    .. math:: K_{t t'} = \langle \nabla_\theta \log \pi_\theta(y^w_t),
       \nabla_\theta \log \pi_\theta(y^l_{t'}) \rangle

    Their sum over both answers is ``cross`` of :func:`pair_gram`. Takes a gradient
    for each rejected token and a directional derivative of all chosen ones along it:
    the model must have both modes.

    Args:
      token_log_probs: ``token_log_probs(params, example)``, shape ``[T]``.
      params: pytree of floating arrays.
      chosen: the example of the chosen answer.
      rejected: the example of the rejected answer.
      chunk_size: how many gradients are kept at once; None keeps all ``T'``.

    Returns:
      The products, shape ``[T, T']``, at least float32.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if ``token_log_probs`` does not return one axis or ``chunk_size``
        is less than 1.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> def token_log_probs(table, tokens):
      ...     return jax.nn.log_softmax(table)[tokens[:-1], tokens[1:]]
      >>> gram = entanglement.token_gram(
      ...     token_log_probs, jnp.zeros((3, 3)), jnp.array([0, 1, 2]), jnp.array([0, 1, 0])
      ... )
      >>> print(jnp.round(3 * gram))
      [[ 2.  0.]
       [ 0. -1.]]
    """
    float_leaves(params=params)
    log_probs, pull = jax.vjp(lambda p: token_log_probs(p, rejected), params)
    chosen_log_probs, push = jax.linearize(lambda p: token_log_probs(p, chosen), params)
    for name, values in (("chosen", chosen_log_probs), ("rejected", log_probs)):
        if values.ndim != 1:
            raise ValueError(
                f"`token_log_probs` must return shape (T,), got {values.shape} for "
                f"`{name}`."
            )
    size = log_probs.shape[0] if chunk_size is None else chunk_size
    checks.at_least("chunk_size", size, 1)
    column = lambda unit: push(*pull(unit))
    units = jnp.eye(log_probs.shape[0], dtype=log_probs.dtype)
    columns = jax.lax.map(column, units, batch_size=size).T
    return columns.astype(accumulation_dtype(columns))


def scalar_valued(log_prob: LogProb) -> LogProb:
    """Refuses a log-probability that is no scalar, with its shape."""

    def checked(params: PyTree, example: PyTree) -> jax.Array:
        value = jnp.asarray(log_prob(params, example))
        if value.shape:
            raise ValueError(
                f"`log_prob` must return a scalar for one example, got shape "
                f"{value.shape}."
            )
        return value

    return checked


def _leaf_products(chosen: jax.Array, rejected: jax.Array) -> PairGram:
    dot = lambda a, b: jnp.sum(a * b)
    wide = accumulation_dtype(chosen)
    chosen, rejected = chosen.astype(wide), rejected.astype(wide)
    return PairGram(dot(chosen, chosen), dot(chosen, rejected), dot(rejected, rejected))


def _tree_vdot(a: PyTree, b: PyTree) -> jax.Array:
    expand = lambda tree: jax.tree.map(lambda x: x[None], tree)
    return _tree_matmul(expand(a), expand(b))[0, 0]


def _tree_matmul(a: PyTree, b: PyTree) -> jax.Array:
    """Inner products of trees with leading axes ``N`` and ``M``: ``[N, M]``."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    dtype = accumulation_dtype(*(x for x, _ in pairs))
    parts = (
        jnp.matmul(
            x.reshape(x.shape[0], -1),
            y.reshape(y.shape[0], -1).T,
            precision=Precision.HIGHEST,
            preferred_element_type=dtype,
        )
        for x, y in pairs
    )
    return _total(parts, dtype)


def _total(parts: Iterable[jax.Array], dtype: jnp.dtype) -> jax.Array:
    first, *others = parts
    total = first.astype(dtype)
    for part in others:
        total += part.astype(dtype)
    return total
