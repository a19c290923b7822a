"""What the gradients of a batch share: log-probabilities, mean loss, cotangents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._coefficients import loss_coefficients
from jaxkit.entanglement._types import Coefficients, PairGram
from jaxkit.ops import masked_fill, masked_mean
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "BatchLogProb",
    "PairReport",
    "batch_log_probs",
    "fill_examples",
    "mean_loss",
    "pair_mask",
]

BatchLogProb = Callable[[Any, Any], jax.Array]


class PairReport(NamedTuple):
    """What a training step learns about its pairs on the way.

    Attributes:
      chosen_logps: log-probability of each chosen answer, shape ``[B]``.
      rejected_logps: the same of the rejected answers, shape ``[B]``.
      coefficients: how strongly the loss pushes on each of them.
      gram: inner products of the two gradients: of each pair, or of the two
        coefficient-weighted sums over the batch, as the function that makes the
        report says.
      valid: which entries of ``gram`` are known; the others are 0.
    """

    chosen_logps: jax.Array
    rejected_logps: jax.Array
    coefficients: Coefficients
    gram: PairGram
    valid: jax.Array


def batch_log_probs(
    log_prob_batch: BatchLogProb, params: PyTree, batch: PyTree, size: int
) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """The log-probabilities, at least float32, and what pulls cotangents back."""

    def wide(params: PyTree) -> jax.Array:
        values = jnp.asarray(log_prob_batch(params, batch))
        if values.shape != (size,):
            raise ValueError(
                f"The log-probabilities of a batch of {size} must have shape "
                f"({size},), got {values.shape}."
            )
        return values.astype(accumulation_dtype(values))

    values, pull = jax.vjp(wide, params)
    return values, lambda cotangent: pull(cotangent)[0]


def mean_loss(
    loss: Callable[..., jax.Array],
    chosen_logps: jax.Array,
    rejected_logps: jax.Array,
    args: tuple[Any, ...],
    where: ArrayLike | None,
) -> tuple[jax.Array, Coefficients, jax.Array]:
    """The mean over the pairs that count, its coefficients, and their weights."""
    chosen = masked_fill(chosen_logps, where)
    rejected = masked_fill(rejected_logps, where)
    # The derivatives of a mean are those of the losses times these weights.
    weights = jax.grad(lambda v: masked_mean(v, where=where))(jnp.zeros_like(chosen))
    value = masked_mean(loss(chosen, rejected, *args), where=where)
    coefficients = loss_coefficients(loss, chosen, rejected, *args)
    coefficients = Coefficients(*(masked_fill(x, where) for x in coefficients))
    return value, coefficients, weights


def pair_mask(where: ArrayLike, num_pairs: int) -> jax.Array:
    """Refuses a mask that is not one bool for each pair."""
    mask = jnp.asarray(where)
    if mask.dtype != jnp.bool_ or mask.shape != (num_pairs,):
        raise ValueError(
            f"`where` must be bool of shape ({num_pairs},), got {mask.dtype} of shape "
            f"{mask.shape}."
        )
    return mask


def fill_examples(examples: PyTree, where: jax.Array | None) -> PyTree:
    """Replaces floating entries of the examples that do not count by zeros."""
    if where is None:
        return examples

    def one(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return masked_fill(leaf, where.reshape(-1, *[1] * (leaf.ndim - 1)))

    return jax.tree.map(one, examples)
