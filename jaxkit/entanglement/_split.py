"""The gradients of the chosen and of the rejected half of a batch, apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._batch_loss import (
    BatchLogProb,
    PairReport,
    batch_log_probs,
    fill_examples,
    mean_loss,
    pair_mask,
)
from jaxkit.entanglement._inputs import float_leaves, same_batch
from jaxkit.entanglement._types import PairGram
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["split_value_and_grad", "tree_gram"]

Gradients = tuple[PyTree, PyTree]


def split_value_and_grad(
    log_prob_batch: BatchLogProb, loss: Callable[..., jax.Array]
) -> Callable[..., tuple[tuple[jax.Array, PairReport], Gradients]]:
    r"""Makes a function with the loss and the two parts of its gradient.

    .. math:: \nabla_\theta \frac1B \sum_i \ell_i = G_l - G_w, \qquad
       G_w = \frac1B \sum_i d_{w,i} \, g_{w,i}, \quad
       G_l = \frac1B \sum_i d_{l,i} \, g_{l,i}

    Each answer is differentiated once, so the two cost what their difference costs.
    Their inner products tell how entangled the batch is as a whole, and
    :func:`combine_gradients` puts them together again.

    Args:
      log_prob_batch: ``log_prob_batch(params, examples)``, the log-probability of
        each answer, shape ``[B]``.
      loss: ``loss(chosen_logps, rejected_logps, *args)``, shape ``[B]``.

    Returns:
      A function ``(params, chosen, rejected, *args, where=None)`` that returns
      ``((value, report), (chosen_grad, rejected_grad))``: the mean loss over the
      pairs in ``where``, a :class:`PairReport` with the Gram of the two sums
      (scalars), and :math:`G_w` and :math:`G_l`.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the batches differ or ``log_prob_batch`` does not return a value
        for each example.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement, preference
      >>> def loss(chosen, rejected):
      ...     return preference.dpo_loss(chosen, rejected, chosen, rejected, beta=2.0)
      >>> step = entanglement.split_value_and_grad(lambda w, x: x @ w, loss)
      >>> _, (chosen_grad, rejected_grad) = step(
      ...     jnp.zeros(2), jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 1.0]])
      ... )
      >>> print(chosen_grad, rejected_grad)
      [1. 0.] [2. 1.]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025.
    """

    def value_and_grad(
        params: PyTree,
        chosen: PyTree,
        rejected: PyTree,
        *args: Any,
        where: ArrayLike | None = None,
    ) -> tuple[tuple[jax.Array, PairReport], Gradients]:
        float_leaves(params=params)
        size = same_batch(chosen=chosen, rejected=rejected)
        if where is not None:
            where = pair_mask(where, size)
        chosen, rejected = fill_examples(chosen, where), fill_examples(rejected, where)
        chosen_logps, pull_chosen = batch_log_probs(
            log_prob_batch, params, chosen, size
        )
        rejected_logps, pull_rejected = batch_log_probs(
            log_prob_batch, params, rejected, size
        )
        value, coefficients, weights = mean_loss(
            loss, chosen_logps, rejected_logps, args, where
        )
        chosen_grad = pull_chosen(coefficients.chosen * weights)
        rejected_grad = pull_rejected(coefficients.rejected * weights)
        report = PairReport(
            chosen_logps=chosen_logps,
            rejected_logps=rejected_logps,
            coefficients=coefficients,
            gram=tree_gram(chosen_grad, rejected_grad),
            valid=jnp.asarray(True),
        )
        return (value, report), (chosen_grad, rejected_grad)

    return value_and_grad


def tree_gram(chosen: PyTree, rejected: PyTree) -> PairGram:
    """Inner products of two pytrees, summed over their leaves."""
    leaves = jax.tree.leaves((chosen, rejected))
    dtype = accumulation_dtype(*leaves)

    def dot(a: PyTree, b: PyTree) -> jax.Array:
        products = jax.tree.map(
            lambda x, y: jnp.sum(x.astype(dtype) * y.astype(dtype)), a, b
        )
        return sum(jax.tree.leaves(products), jnp.zeros((), dtype))

    return PairGram(dot(chosen, chosen), dot(chosen, rejected), dot(rejected, rejected))
