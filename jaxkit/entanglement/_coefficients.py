"""How strongly a loss pushes on the two log-probabilities of each pair."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit.entanglement._inputs import broadcast_real
from jaxkit.entanglement._types import Coefficients
from jaxkit.typing import ArrayLike

__all__ = ["loss_coefficients"]


def loss_coefficients(
    loss: Callable[..., jax.Array],
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    *args: Any,
    **options: Any,
) -> Coefficients:
    r"""Finds how strongly any loss pushes on the two log-probabilities of each pair.

    .. math:: d_w = -\frac{\partial}{\partial \log \pi_w} \sum_i \ell_i, \qquad
       d_l = +\frac{\partial}{\partial \log \pi_l} \sum_i \ell_i

    One backward pass through the loss alone, which costs nothing beside the model.
    The gradient of the summed loss in the parameters is then
    :math:`-\sum (d_w \nabla \log \pi_w - d_l \nabla \log \pi_l)`. Either coefficient
    may be negative: IPO past its target, SPPO, NCA, the conservative DPO. Losses
    that couple the pairs of a batch, such as AOT, need nothing special.

    Everything in ``args`` counts as a constant: references, lengths, statistics of
    the batch. Not compiled, since it takes a callable: jit the function that calls it.

    Args:
      loss: ``loss(chosen_logps, rejected_logps, *args, **options)``, one value per
        pair, such as :func:`jaxkit.preference.dpo_loss`.
      chosen_logps: log-probability of each chosen answer, shape ``[...]``.
      rejected_logps: the same of the rejected answers.
      args: further positional arguments of ``loss``.
      options: keyword arguments of ``loss``; its own ``where`` gives masked pairs
        coefficients of 0.

    Returns:
      The coefficients of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability is not real.
      ValueError: if the shapes differ, or ``loss`` does not give one value per pair.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement, preference
      >>> chosen, rejected = jnp.array([-12.0]), jnp.array([-15.0])
      >>> pushes = entanglement.loss_coefficients(
      ...     preference.dpo_loss, chosen, rejected, chosen + 1, rejected, beta=0.3
      ... )
      >>> print(f"{pushes.chosen[0]:.6f} {pushes.rejected[0]:.6f}")
      0.172333 0.172333

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025, for losses of the form
      ``-(m(h_w(chosen) - h_l(rejected)) + anchor(chosen))``.
    """
    chosen, rejected = broadcast_real(
        chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    if jnp.shape(chosen_logps) != jnp.shape(rejected_logps):
        raise ValueError(
            "`chosen_logps` and `rejected_logps` must have the same shape, got "
            f"{jnp.shape(chosen_logps)} and {jnp.shape(rejected_logps)}."
        )
    values, pull_back = jax.vjp(
        lambda *logps: loss(*logps, *args, **options), chosen, rejected
    )
    if values.shape != chosen.shape:
        raise ValueError(
            f"`loss` must give one value per pair, shape {chosen.shape}, "
            f"got {values.shape}."
        )
    slope_chosen, slope_rejected = pull_back(jnp.ones_like(values))
    return Coefficients(chosen=-slope_chosen, rejected=slope_rejected)
