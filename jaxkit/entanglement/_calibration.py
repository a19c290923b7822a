"""A running factor that balances the gradients of chosen and rejected answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.entanglement._inputs import broadcast_real
from jaxkit.entanglement._types import Coefficients, PairGram
from jaxkit.ops import masked_fill, masked_mean
from jaxkit.typing import ArrayLike

__all__ = [
    "CalibrationState",
    "calibrate",
    "calibrated_log_probs",
    "init_calibration",
]


class CalibrationState(NamedTuple):
    """Running averages of the two ratios that a calibration compares.

    Attributes:
      log_norm_ratio: average of the logarithm of the norm of the rejected gradient
        over that of the chosen one, a scalar, not yet divided by ``weight``.
      log_coefficient_ratio: the same of the chosen coefficient over the rejected one.
      weight: the sum of the weights of the averages, 0 at the start.
    """

    log_norm_ratio: jax.Array
    log_coefficient_ratio: jax.Array
    weight: jax.Array


def init_calibration() -> CalibrationState:
    """Makes the state of :func:`calibrate` before the first step.

    Returns:
      A :class:`CalibrationState` of zeros.

    Examples:
      >>> from jaxkit import entanglement
      >>> print(entanglement.init_calibration().weight)
      0.0
    """
    zero = jnp.zeros(())
    return CalibrationState(zero, zero, zero)


@jit()
def calibrate(
    state: CalibrationState,
    gram: PairGram,
    coefficients: Coefficients,
    *,
    decay: ArrayLike = 0.98,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, CalibrationState]:
    r"""Finds the factor that balances the two gradients, from running averages.

    .. math:: \alpha = \exp \frac{\overline{\log r^*} - \overline{\log |r|}}{2},
       \qquad r^* = \frac{\|g_l\|}{\|g_w\|}, \quad r = \frac{d_w}{d_l}

    Pairs with a zero norm or coefficient are left out of the averages, which weigh
    the steps by powers of ``decay`` and are unbiased from the first step on. Pass the
    factor to :func:`calibrated_log_probs`.

    Args:
      state: of the step before, or from :func:`init_calibration`.
      gram: inner products of the gradients of each pair, shape ``[...]``.
      coefficients: of the loss WITHOUT calibration, shape ``[...]``.
      decay: how much of the average is kept, in [0, 1).
      where: which pairs count, bool ``[...]``.

    Returns:
      The factor, a scalar (1 until a pair counts), and the new state.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> one = jnp.ones(1)
      >>> scale, state = entanglement.calibrate(
      ...     entanglement.init_calibration(),
      ...     entanglement.PairGram(one, 0 * one, 16 * one),
      ...     entanglement.Coefficients(one, one),
      ... )
      >>> print(scale)
      2.0

    References:
      Chen et al., ICML 2026 (reward calibration).
    """
    chosen_sq, rejected_sq, chosen, rejected = broadcast_real(
        where,
        **{
            "gram.chosen": gram.chosen,
            "gram.rejected": gram.rejected,
            "coefficients.chosen": coefficients.chosen,
            "coefficients.rejected": coefficients.rejected,
        },
    )
    values = (chosen_sq, rejected_sq, jnp.abs(chosen), jnp.abs(rejected))
    counts = jnp.ones(chosen.shape, jnp.bool_)
    for value in values:
        counts &= (value > 0) & jnp.isfinite(value)
    logs = [jnp.log(masked_fill(value, counts, fill=1.0)) for value in values]
    norm_ratio = masked_mean((logs[1] - logs[0]) / 2, where=counts)
    coefficient_ratio = masked_mean(logs[2] - logs[3], where=counts)
    dtype = state.weight.dtype
    decay = jnp.where(jnp.any(counts), jnp.asarray(decay, dtype), 1.0)
    fresh = (norm_ratio, coefficient_ratio, jnp.ones(()))
    state = CalibrationState(
        *(
            decay * old + (1 - decay) * new.astype(dtype)
            for old, new in zip(state, fresh, strict=True)
        )
    )
    weight = jnp.where(state.weight > 0, state.weight, 1.0)
    difference = state.log_norm_ratio - state.log_coefficient_ratio
    return jnp.exp(difference / weight / 2), state


@jit()
def calibrated_log_probs(
    chosen_logps: ArrayLike, rejected_logps: ArrayLike, scale: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    r"""Scales the gradients of the log-probabilities and leaves their values.

    .. math:: \tilde a = \alpha a + (1 - \alpha) \operatorname{sg}(a), \qquad
       \tilde b = \frac{b}{\alpha} + \Bigl(1 - \frac1\alpha\Bigr)
       \operatorname{sg}(b)

    A loss of these has the same value as before, and :math:`\alpha^2` times the ratio
    of its coefficients. The factor counts as a constant.

    Args:
      chosen_logps: log-probability of each chosen answer, shape ``[...]``.
      rejected_logps: the same of the rejected answers.
      scale: the factor :math:`\alpha` of :func:`calibrate`, positive.

    Returns:
      The two log-probabilities, with the same values.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> def margin(a, b):
      ...     a, b = entanglement.calibrated_log_probs(a, b, 2.0)
      ...     return a - b
      >>> value, slopes = jax.value_and_grad(margin, (0, 1))(jnp.ones(()), jnp.zeros(()))
      >>> print(value, *slopes)
      1.0 2.0 -0.5

    References:
      Chen et al., ICML 2026 (reward calibration).
    """
    chosen, rejected, scale = broadcast_real(
        chosen_logps=chosen_logps, rejected_logps=rejected_logps, scale=scale
    )
    scale = jax.lax.stop_gradient(scale)

    def rescale(value: jax.Array, factor: jax.Array) -> jax.Array:
        # The difference is exactly 0: the value does not change by a single bit.
        constant = jax.lax.stop_gradient(value)
        return constant + factor * (value - constant)

    return rescale(chosen, scale), rescale(rejected, 1 / scale)
