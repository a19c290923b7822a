"""The step size, the optimism and the regret that the theory of SELM names."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike

__all__ = ["SelmRates", "selm_rates"]


class SelmRates(NamedTuple):
    """What the regret bound of self-exploration asks for and promises.

    Attributes:
      eta: the learning rate of the analysis.
      alpha: the strength of the exploration.
      regret: the bound on the regret after all rounds, up to an absolute constant.
    """

    eta: jax.Array
    alpha: jax.Array
    regret: jax.Array


@jit()
def selm_rates(
    num_rounds: ArrayLike,
    *,
    log_ratio_bound: ArrayLike,
    eluder_coefficient: ArrayLike,
    log_class_size: ArrayLike,
) -> SelmRates:
    r"""Step size, optimism and regret of the theory.

    .. math::

        \eta = \sqrt{\frac{T d}{e^{4R} \log(|\Pi| / \delta)}}, \qquad
        \alpha = \frac{2}{\eta \, e^{4R}}, \qquad
        \mathrm{regret} \lesssim e^{2R} \sqrt{d \, T \log(|\Pi| / \delta)}

    The regret is of the order of :math:`\sqrt T`, so that :math:`1/\epsilon^2`
    comparisons suffice, but exponential in the bound :math:`R` on the log-ratio. The
    paper leaves absolute constants open: compare growth, not size.

    Args:
      num_rounds: the number :math:`T` of rounds, positive, shape ``[...]``.
      log_ratio_bound: the bound :math:`R` on :math:`|\log \pi / \pi_{\mathrm{ref}}|`
        over the class, broadcastable to ``[...]``.
      eluder_coefficient: the preference eluder coefficient :math:`d`, of the order of
        the dimension for log-linear policies, broadcastable to ``[...]``.
      log_class_size: :math:`\log(|\Pi| / \delta)`, positive, broadcastable to
        ``[...]``.

    Returns:
      The rates, each of shape ``[...]``.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes do not fit.

    Examples:
      >>> from jaxkit import preference
      >>> rates = preference.selm_rates(
      ...     100.0, log_ratio_bound=0.5, eluder_coefficient=4.0, log_class_size=1.0)
      >>> print(f"{rates.eta:.4f} {rates.alpha:.4f} {rates.regret:.2f}")
      7.3576 0.0368 54.37

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, theorem 5.3.
    """
    checks.positive(
        num_rounds=num_rounds,
        eluder_coefficient=eluder_coefficient,
        log_class_size=log_class_size,
    )
    values = {
        "num_rounds": num_rounds,
        "log_ratio_bound": log_ratio_bound,
        "eluder_coefficient": eluder_coefficient,
        "log_class_size": log_class_size,
    }
    arrays = dict(zip(values, checks.floating(**values), strict=True))
    like = arrays["num_rounds"]
    for name, array in arrays.items():
        checks.broadcastable(name, array, like.shape)
    rounds, bound, coefficient, size = (
        jnp.broadcast_to(array.astype(like.dtype), like.shape)
        for array in arrays.values()
    )
    growth = jnp.exp(2.0 * bound)
    eta = jnp.sqrt(rounds * coefficient / size) / growth
    regret = growth * jnp.sqrt(coefficient * rounds * size)
    return SelmRates(eta, 2.0 / (eta * growth**2), regret)
