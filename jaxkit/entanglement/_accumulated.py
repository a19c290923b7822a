"""The pair Gram of a whole model as the gradient of an accumulator."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, overload

import jax
import jax.numpy as jnp

from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._batch_loss import (
    PairReport,
    batch_log_probs,
    fill_examples,
    mean_loss,
    pair_mask,
)
from jaxkit.entanglement._inputs import float_leaves, leading_size
from jaxkit.entanglement._types import PairGram
from jaxkit.entanglement._uses import check_uses
from jaxkit.ops import masked_fill, match_varying
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["accumulated_pair_gram", "accumulated_value_and_grad"]

AccumulatedLogProb: TypeAlias = Callable[[Any, Any, Any], jax.Array]


@overload
def accumulated_pair_gram(
    log_prob: AccumulatedLogProb,
    params: PyTree,
    batch: PyTree,
    *,
    groups: None = None,
) -> PairGram: ...


@overload
def accumulated_pair_gram(
    log_prob: AccumulatedLogProb,
    params: PyTree,
    batch: PyTree,
    *,
    groups: Sequence[str],
) -> dict[str, PairGram]: ...


def accumulated_pair_gram(
    log_prob: AccumulatedLogProb,
    params: PyTree,
    batch: PyTree,
    *,
    groups: Sequence[str] | None = None,
) -> PairGram | dict[str, PairGram]:
    r"""Inner products of the two gradients of each pair, in one backward pass.

    .. math:: \langle g_i, g_j \rangle = \sum_{\text{operations } k}
       \langle g_i^{(k)}, g_j^{(k)} \rangle

    The same numbers as :func:`pair_gram`, for models made of the operations with an
    accumulator. Operations on frozen parameters get None for it. Every leaf of
    ``params`` must meet one such operation: the program is read for that when it is
    traced, and weights used twice are refused. Not compiled: call it inside a
    compiled function.

    Args:
      log_prob: ``log_prob(params, accumulator, batch)``, the log-probabilities of
        the answers, shape ``[2B]``.
      params: pytree of floating arrays, those to differentiate.
      batch: pytree with leading axis ``2B``, the chosen answers first.
      groups: names of groups of operations; ``accumulator`` is then a dict with an
        array for each name. None means one array.

    Returns:
      The products, each of shape ``[B]``; with groups a dict of them.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the leading axis is odd, a parameter is used more than once or
        outside of the operations, or a frozen one is counted.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> def log_prob(weight, accumulator, x):
      ...     return entanglement.accumulator_dense(x, weight, accumulator)[:, 0]
      >>> x = jnp.array([[1.0, 0.0], [2.0, 1.0]])
      >>> gram = entanglement.accumulated_pair_gram(log_prob, jnp.ones((2, 1)), x)
      >>> print(jnp.stack(gram).T)
      [[1. 2. 5.]]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (the inner products).
    """
    num_pairs = _num_pairs(params, batch)
    zeros = _zeros(params, batch, num_pairs)
    accumulator = zeros if groups is None else dict.fromkeys(groups, zeros)
    check_uses(log_prob, params, accumulator, batch)

    def log_probs(accumulator: PyTree, batch: PyTree) -> jax.Array:
        return log_prob(params, accumulator, batch)

    values, pull = batch_log_probs(log_probs, accumulator, batch, 2 * num_pairs)
    products = pull(jnp.ones_like(values))
    if groups is None:
        return PairGram(*products)
    return {name: PairGram(*products[name]) for name in groups}


def accumulated_value_and_grad(
    log_prob: AccumulatedLogProb,
    loss: Callable[..., jax.Array],
) -> Callable[..., tuple[tuple[jax.Array, PairReport], PyTree]]:
    r"""Makes a function with the loss, its gradient and the Gram of every pair.

    .. math:: \nabla_\theta \frac1B \sum_i \ell_i \quad \text{and} \quad
       \langle g_i, g_j \rangle = \frac{\langle c_i g_i, c_j g_j \rangle}{c_i c_j},
       \qquad c_w = -\frac{d_w}{B}, \; c_l = \frac{d_l}{B}

    One backward pass serves both, at little more than the cost of a gradient. The
    Gram comes out scaled by the coefficients of the loss and is divided by them:
    pairs whose coefficients are 0 or too small for that get 0 and are reported as
    not valid; :func:`accumulated_pair_gram` knows those too.

    Args:
      log_prob: ``log_prob(params, accumulator, batch)``, the log-probabilities of
        the answers, shape ``[2B]``, see :func:`accumulated_pair_gram`.
      loss: ``loss(chosen_logps, rejected_logps, *args)``, shape ``[B]``.

    Returns:
      A function ``(params, batch, *args, where=None)`` that returns ``((value,
      report), gradient)`` with the mean loss over the pairs in ``where``, a
      :class:`PairReport` with the Gram of each pair, and the gradient of the mean.
      Inside :func:`jax.shard_map` the mean is that of the pairs of one device, and
      the gradient the sum over the devices that share the parameters.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: see :func:`accumulated_pair_gram`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement, preference
      >>> def log_prob(weight, accumulator, x):
      ...     return entanglement.accumulator_dense(x, weight, accumulator)[:, 0]
      >>> def loss(chosen, rejected):
      ...     return preference.dpo_loss(chosen, rejected, chosen, rejected)
      >>> x = jnp.array([[1.0, 0.0], [2.0, 1.0]])
      >>> step = entanglement.accumulated_value_and_grad(log_prob, loss)
      >>> (value, report), gradient = step(jnp.ones((2, 1)), x)
      >>> print(jnp.stack(report.gram).T, report.valid)
      [[1. 2. 5.]] [ True]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (the inner products).
    """

    def value_and_grad(
        params: PyTree, batch: PyTree, *args: Any, where: ArrayLike | None = None
    ) -> tuple[tuple[jax.Array, PairReport], PyTree]:
        num_pairs = _num_pairs(params, batch)
        if where is not None:
            where = pair_mask(where, num_pairs)
            batch = fill_examples(batch, jnp.concatenate([where, where]))
        accumulator = _zeros(params, batch, num_pairs)
        check_uses(log_prob, params, accumulator, batch)

        def log_probs(inputs: tuple[PyTree, PyTree], batch: PyTree) -> jax.Array:
            return log_prob(*inputs, batch)

        logps, pull = batch_log_probs(
            log_probs, (params, accumulator), batch, 2 * num_pairs
        )
        chosen, rejected = jnp.split(logps, 2)
        value, coefficients, weights = mean_loss(loss, chosen, rejected, args, where)
        seeds = (-coefficients.chosen * weights, coefficients.rejected * weights)
        gradient, products = pull(jnp.concatenate(seeds))
        scales, valid = _scales(*seeds)
        gram = PairGram(
            *(masked_fill(p / s, valid) for p, s in zip(products, scales, strict=True))
        )
        report = PairReport(chosen, rejected, coefficients, gram, valid)
        return (value, report), gradient

    return value_and_grad


def _scales(
    chosen: jax.Array, rejected: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """What the products are scaled by, and where that leaves them any digits."""
    scales = (chosen * chosen, chosen * rejected, rejected * rejected)
    limits = jnp.finfo(chosen.dtype)
    smallest = float(limits.tiny) / float(limits.eps)
    valid = jnp.minimum(scales[0], scales[2]) > smallest
    return tuple(masked_fill(scale, valid, fill=1.0) for scale in scales), valid


def _num_pairs(params: PyTree, batch: PyTree) -> int:
    float_leaves(params=params)
    size = leading_size("batch", batch)
    if size % 2:
        raise ValueError(
            f"`batch` must hold the chosen and then as many rejected answers, got an "
            f"odd number, {size}."
        )
    return size // 2


def _zeros(params: PyTree, batch: PyTree, num_pairs: int) -> jax.Array:
    dtype = accumulation_dtype(*jax.tree.leaves(params))
    # Under shard_map every device counts pairs of its own.
    return match_varying(jnp.zeros((3, num_pairs), dtype), jax.tree.leaves(batch)[0])
