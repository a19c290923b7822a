"""Preference dynamics with constant inner products, solved exactly."""

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxkit._core.jit import jit
from jaxkit.entanglement._inputs import real_gram
from jaxkit.entanglement._types import Changes, PairGram
from jaxkit.ops import masked_fill, safe_divide
from jaxkit.typing import ArrayLike

__all__ = ["lazy_dpo_flow"]

_NEWTON_STEPS = 8


@jit()
def lazy_dpo_flow(
    gram: PairGram,
    initial_margin: ArrayLike,
    times: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
) -> tuple[jax.Array, Changes]:
    r"""Solves the gradient flow of the DPO loss of one pair for constant gradients.

    .. math:: \frac{dm}{dt} = \beta\, \sigma(-\beta m)\, S, \qquad
       S = s_{ww} - 2 s_{wl} + s_{ll}

    The inner products stay constant when log-probabilities are linear in the
    parameters, or in the limit of lazy (neural tangent) training. With
    :math:`x = \beta m` the solution is

    .. math:: x + e^x = x_0 + e^{x_0} + \beta^2 S t

    and both log-probabilities follow the margin in fixed shares,

    .. math:: \Delta \log \pi_w = (m - m_0) \frac{s_{ww} - s_{wl}}{S}, \qquad
       \Delta \log \pi_l = -(m - m_0) \frac{s_{ll} - s_{wl}}{S}.

    Descent with step size :math:`\eta` follows it at :math:`t = \eta\,\times` steps
    with an error of order :math:`\eta`.

    Args:
      gram: the inner products of each pair; all arrays broadcast together.
      initial_margin: :math:`m_0`, the log-ratio of the chosen answer less that of the
        rejected one, before any factor :math:`\beta`.
      times: flow times, finite and at least 0.
      beta: the inverse temperature of the loss, positive.

    Returns:
      ``(margin, changes)``: the margin at the given times and the changes of the two
      log-probabilities since time 0, each of the broadcast shape, at least float32.
      Nothing moves where :math:`S = 0`.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> gram = entanglement.PairGram(chosen=2.0, cross=1.0, rejected=3.0)
      >>> margin, changes = entanglement.lazy_dpo_flow(gram, 0.0, 1.0, beta=1.0)
      >>> print(f"{margin:.6f} {changes.chosen:.6f} {changes.rejected:.6f}")
      1.073729 0.357910 -0.715819

    References:
      Derived; see the theory page.
    """
    gram, (start, times, beta) = real_gram(
        gram, initial_margin=initial_margin, times=times, beta=beta
    )
    if beta.size:
        checkify.debug_check(
            jnp.all(beta > 0), "`beta` must be positive, got {low}.", low=jnp.min(beta)
        )
    chosen_part = gram.chosen - gram.cross
    rejected_part = gram.rejected - gram.cross
    total = jnp.maximum(chosen_part + rejected_part, 0.0)
    growth = _margin_growth(beta * start, beta**2 * total * times) / beta
    rate = safe_divide(growth, total)
    changes = Changes(chosen=rate * chosen_part, rejected=-rate * rejected_part)
    return start + growth, changes


def _margin_growth(start: jax.Array, drive: jax.Array) -> jax.Array:
    """Solves ``d + e^start (e^d - 1) = drive`` for ``d >= 0``.

    Scaled by ``sigma(-start)``, which leaves nothing to overflow:
    ``sigma(-start) d + sigma(start) (e^d - 1) = sigma(-start) drive``. The left side is
    convex and increasing, so Newton's method descends to the root from any point above
    it.
    """
    log_rest, log_weight = jax.nn.log_sigmoid(-start), jax.nn.log_sigmoid(start)
    rest, weight = jnp.exp(log_rest), jnp.exp(log_weight)
    target = rest * drive

    def newton(d: jax.Array) -> jax.Array:
        near = d < 1.0
        grown = jnp.exp(log_weight + d)
        curved = jnp.where(
            near, weight * jnp.expm1(masked_fill(d, near)), grown - weight
        )
        return d - (rest * d + curved - target) / (rest + grown)

    # Two upper bounds: from e^d - 1 >= d, and from leaving out the linear term.
    log_target = jnp.log(masked_fill(target, target > 0, fill=1.0))
    exponential = jax.nn.softplus(log_target - log_weight)
    first = jnp.where(target > 0, jnp.minimum(target, exponential), 0.0)
    root, _ = jax.lax.scan(
        lambda d, _: (newton(d), None),
        jax.lax.stop_gradient(first),
        length=_NEWTON_STEPS,
    )
    # Two more steps carry the derivatives, exact to the third order at a root.
    return newton(newton(jax.lax.stop_gradient(root)))
