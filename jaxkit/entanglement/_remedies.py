"""Directions and steps that keep the chosen answers from falling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.entanglement._batch_loss import (
    BatchLogProb,
    PairReport,
    batch_log_probs,
    fill_examples,
    mean_loss,
    pair_mask,
)
from jaxkit.entanglement._inputs import float_leaves, same_batch
from jaxkit.entanglement._split import split_value_and_grad, tree_gram
from jaxkit.entanglement._types import Coefficients, PairGram
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "alternating_update",
    "combine_gradients",
    "normalized_pair_value_and_grad",
]

FORMS = ("geometric", "unit")


@jit(static_argnames=("method", "form"))
def combine_gradients(
    chosen_grad: PyTree,
    rejected_grad: PyTree,
    *,
    method: str = "normalized",
    form: str = "geometric",
    eps: ArrayLike = 1e-12,
) -> PyTree:
    r"""Puts the two parts of a gradient together, one no longer than the other.

    .. math:: \text{sum: } G_l - G_w, \qquad
       \text{geometric: } \frac{G_l}{\alpha} - \alpha G_w, \;
       \alpha = \sqrt{\frac{\|G_l\|}{\|G_w\|}}, \qquad
       \text{unit: } \frac{G_l}{\|G_l\|} - \frac{G_w}{\|G_w\|}

    Descent along a normalized combination raises the weighted sum of the chosen
    log-probabilities and lowers that of the rejected ones, unless the two parts are
    parallel: it bisects :math:`G_w` and :math:`-G_l`. That holds for small steps of
    plain gradient descent. Under Adam there is no such guarantee, and the chosen
    answers can fall further than without: use a loss with an anchor there.

    Args:
      chosen_grad: :math:`G_w` of :func:`split_value_and_grad`, a pytree.
      rejected_grad: :math:`G_l`, a pytree of the same structure.
      method: ``"normalized"``, or ``"sum"`` for the gradient of the loss.
      form: ``"geometric"`` keeps the scale of the loss, ``"unit"`` does not.
      eps: added to the norms.

    Returns:
      The gradient for an optimizer, a pytree like the two parts.

    Raises:
      ValueError: if ``method`` or ``form`` is unknown, or the pytrees differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> chosen, rejected = jnp.array([1.0, 0.0]), jnp.array([0.0, 4.0])
      >>> print(entanglement.combine_gradients(chosen, rejected))
      [-2.  2.]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (normalized gradients).
    """
    checks.one_of("method", method, ("sum", "normalized"))
    checks.one_of("form", form, FORMS)
    if jax.tree.structure(chosen_grad) != jax.tree.structure(rejected_grad):
        raise ValueError(
            f"`chosen_grad` and `rejected_grad` must have the same structure, got "
            f"{jax.tree.structure(chosen_grad)} and "
            f"{jax.tree.structure(rejected_grad)}."
        )
    float_leaves(chosen_grad=chosen_grad, rejected_grad=rejected_grad)
    one = jnp.ones(())
    factors = (one, one)
    if method == "normalized":
        gram = tree_gram(chosen_grad, rejected_grad)
        factors = _norm_factors(gram, form, eps)
    chosen_factor, rejected_factor = factors

    def combine(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
        dtype = accumulation_dtype(chosen, rejected)
        weighted = rejected.astype(dtype) * rejected_factor.astype(dtype)
        weighted -= chosen.astype(dtype) * chosen_factor.astype(dtype)
        return weighted.astype(chosen.dtype)

    return jax.tree.map(combine, chosen_grad, rejected_grad)


def normalized_pair_value_and_grad(
    log_prob_batch: BatchLogProb,
    loss: Callable[..., jax.Array],
    gram: Callable[[Any, Any, Any], PairGram],
    *,
    form: str = "geometric",
    eps: ArrayLike = 1e-12,
) -> Callable[..., tuple[tuple[jax.Array, PairReport], PyTree]]:
    r"""Makes a function with a gradient in which each pair is normalized by itself.

    .. math:: v = \frac1B \sum_i \sqrt{|d_{w,i} d_{l,i}|} \Bigl(
       \pm \alpha_i \, g_{w,i} \mp \frac{g_{l,i}}{\alpha_i} \Bigr), \qquad
       \alpha_i = \sqrt{\frac{\|g_{l,i}\|}{\|g_{w,i}\|}}

    with the signs of the coefficients; the function returns :math:`-v`. The unit
    form has :math:`g / \|g\|` instead. A small step of plain gradient descent on one
    pair then raises its chosen and lowers its rejected answer unless their gradients
    are parallel. Nothing is said about the effect of one pair on another, nor about
    other optimizers.

    Args:
      log_prob_batch: ``log_prob_batch(params, examples)``, shape ``[B]``.
      loss: ``loss(chosen_logps, rejected_logps, *args)``, shape ``[B]``.
      gram: ``gram(params, chosen, rejected)``, the :class:`PairGram` of each pair,
        such as :func:`pair_gram` with its first argument given.
      form: ``"geometric"`` keeps the scale of the loss, ``"unit"`` does not.
      eps: added to the norms.

    Returns:
      A function ``(params, chosen, rejected, *args, where=None)`` that returns
      ``((value, report), gradient)``; ``report.gram`` is that of each pair.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if ``form`` is unknown or the batches differ.

    Examples:
      >>> import functools
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement, preference
      >>> def loss(chosen, rejected):
      ...     return preference.dpo_loss(chosen, rejected, chosen, rejected, beta=2.0)
      >>> gram = functools.partial(entanglement.pair_gram, jnp.vdot)
      >>> step = entanglement.normalized_pair_value_and_grad(
      ...     lambda w, x: x @ w, loss, gram
      ... )
      >>> _, gradient = step(
      ...     jnp.zeros(2), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 4.0]])
      ... )
      >>> print(gradient)
      [-2.  2.]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (normalized gradients).
    """
    checks.one_of("form", form, FORMS)

    def value_and_grad(
        params: PyTree,
        chosen: PyTree,
        rejected: PyTree,
        *args: Any,
        where: ArrayLike | None = None,
    ) -> tuple[tuple[jax.Array, PairReport], PyTree]:
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
        products = PairGram(
            *(masked_fill(x, where) for x in gram(params, chosen, rejected))
        )
        pushes = _normalized_coefficients(products, coefficients, form, eps)
        # Two passes, each through one half: a pass through both costs twice as much.
        gradient = jax.tree.map(
            jnp.subtract,
            pull_rejected((pushes.rejected * weights).astype(rejected_logps.dtype)),
            pull_chosen((pushes.chosen * weights).astype(chosen_logps.dtype)),
        )
        report = PairReport(
            chosen_logps, rejected_logps, coefficients, products, jnp.asarray(True)
        )
        return (value, report), gradient

    return value_and_grad


def alternating_update(
    log_prob_batch: BatchLogProb,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
) -> Callable[..., tuple[PyTree, Any, jax.Array]]:
    r"""Makes a step that raises the chosen answers first and lowers the others then.

    .. math:: \theta' = \theta + \eta \, G_w(\theta), \qquad
       \theta'' = \theta' - \eta \, G_l(\theta')

    The gradient of the rejected half is taken anew after the first half-step, which
    leaves out the pull of finite steps towards aligned gradients.

    Args:
      log_prob_batch: ``log_prob_batch(params, examples)``, shape ``[B]``.
      loss: ``loss(chosen_logps, rejected_logps, *args)``, shape ``[B]``.
      optimizer: an optax transformation, applied to each half-step.

    Returns:
      A function ``(params, opt_state, chosen, rejected, *args, where=None)`` that
      returns ``(params, opt_state, value)``, the mean loss before the step.

    Raises:
      TypeError: if a leaf of ``params`` is not floating.
      ValueError: if the batches differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import entanglement, preference
      >>> def loss(chosen, rejected):
      ...     return preference.dpo_loss(chosen, rejected, chosen, rejected, beta=2.0)
      >>> optimizer = optax.sgd(1.0)
      >>> step = entanglement.alternating_update(lambda w, x: x @ w, loss, optimizer)
      >>> w = jnp.zeros(2)
      >>> w, *_ = step(
      ...     w, optimizer.init(w), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      ... )
      >>> print(w)
      [ 1. -1.]
    """
    split = split_value_and_grad(log_prob_batch, loss)

    def step(
        params: PyTree,
        opt_state: Any,
        chosen: PyTree,
        rejected: PyTree,
        *args: Any,
        where: ArrayLike | None = None,
    ) -> tuple[PyTree, Any, jax.Array]:
        (value, _), (chosen_grad, _) = split(
            params, chosen, rejected, *args, where=where
        )
        descent = jax.tree.map(jnp.negative, chosen_grad)
        updates, opt_state = optimizer.update(descent, opt_state, params)
        params = optax.apply_updates(params, updates)
        _, (_, rejected_grad) = split(params, chosen, rejected, *args, where=where)
        updates, opt_state = optimizer.update(rejected_grad, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step


def _normalized_coefficients(
    gram: PairGram, coefficients: Coefficients, form: str, eps: ArrayLike
) -> Coefficients:
    chosen_factor, rejected_factor = _norm_factors(gram, form, eps)
    sizes = [jnp.abs(c) for c in coefficients]
    # Roots first: the product of two small coefficients may be 0.
    size = _root(sizes[0]) * _root(sizes[1]) if form == "geometric" else 1.0
    return Coefficients(
        chosen=jnp.sign(coefficients.chosen) * size * chosen_factor,
        rejected=jnp.sign(coefficients.rejected) * size * rejected_factor,
    )


def _norm_factors(
    gram: PairGram, form: str, eps: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Factors that make the two gradients equally long."""
    chosen, rejected = _root(gram.chosen) + eps, _root(gram.rejected) + eps
    if form == "unit":
        return 1 / chosen, 1 / rejected
    alpha = jnp.sqrt(rejected / chosen)
    return alpha, 1 / alpha


def _root(square: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0."""
    positive = square > 0
    return masked_fill(jnp.sqrt(masked_fill(square, positive, fill=1.0)), positive)
