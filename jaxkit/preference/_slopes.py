"""How hard a loss pulls on the two log-probabilities of each pair."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit.preference._arguments import pair_arguments
from jaxkit.preference._pairs import PairLogps, real_arrays

__all__ = ["PairSlopes", "loss_slopes"]


class PairSlopes(NamedTuple):
    """Partial derivatives of a loss in the two log-probabilities of each pair.

    Attributes:
      chosen: in the log-probability of the chosen answer, shape ``[...]``; negative
        where descent makes that answer more likely.
      rejected: in the log-probability of the rejected answer, shape ``[...]``.
    """

    chosen: jax.Array
    rejected: jax.Array


def loss_slopes(
    loss_fn: Callable[..., jax.Array], pair: PairLogps, **hyper: Any
) -> PairSlopes:
    r"""Differentiates a loss in the log-probabilities of each pair.

    .. math::

        d_w = \frac{\partial}{\partial \log \pi_w} \sum_i \ell_i, \qquad
        d_l = \frac{\partial}{\partial \log \pi_l} \sum_i \ell_i

    The gradient of the loss in the parameters of the policy is then
    :math:`\sum_i d_w \nabla \log \pi_w + d_l \nabla \log \pi_l`: two numbers per pair
    say all that distinguishes one loss from another. Where pairs do not interact, as
    everywhere but in :func:`aot_loss`, the sum is only a way to get all slopes at once.

    Not compiled, because it takes a function; compile the caller.

    Args:
      loss_fn: a loss of this package, or any function of the log-probabilities in the
        order of :class:`PairLogps`.
      pair: the log-probabilities, shape ``[...]``.
      hyper: keyword arguments of ``loss_fn``, lengths and ``where`` included.

    Returns:
      The slopes, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability is not real.
      ValueError: if shapes differ, or the loss needs a reference and the pair has none.

    Examples:
      >>> from jaxkit import preference
      >>> pair = preference.PairLogps(-10.0, -14.0, -11.0, -13.0)
      >>> slopes = preference.loss_slopes(preference.dpo_loss, pair, beta=0.1)
      >>> print(f"{slopes.chosen:.4f} {slopes.rejected:.4f}")
      -0.0450 0.0450
    """
    chosen, rejected = real_arrays(None, chosen=pair.chosen, rejected=pair.rejected)

    def total(policy: tuple[jax.Array, jax.Array]) -> jax.Array:
        here = pair._replace(chosen=policy[0], rejected=policy[1])
        args, named = pair_arguments(loss_fn, here)
        return jnp.sum(loss_fn(*args, **named, **hyper))

    return PairSlopes(*jax.grad(total)((chosen, rejected)))
