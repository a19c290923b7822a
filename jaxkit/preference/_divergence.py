"""Scores of the two answers under divergences other than the reverse KL."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.preference._pairs import hyper, log_ratios, scaled
from jaxkit.typing import ArrayLike

__all__ = [
    "DIVERGENCES",
    "exponent_cut",
    "f_divergence_score",
    "pair_margin",
    "pair_scores",
    "scaled_expm1",
]

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
_SERIES_COEFFICIENTS = tuple(1.0 / float(np.prod(range(1, k + 2))) for k in range(8))


def exponent_cut(dtype: jnp.dtype) -> float:
    """The largest exponent: far enough from overflow to be multiplied further."""
    return 700.0 if dtype == jnp.float64 else 80.0


def scaled_expm1(values: jax.Array, rate: jax.Array, cut: float) -> jax.Array:
    """Gives (exp(rate x) - 1) / rate, which is x at rate 0, smooth in both."""
    exponent = scaled(rate, values)
    small = jnp.abs(exponent) < 0.03
    # Below the threshold a quotient of two small numbers has derivatives that cancel:
    # the series of expm1(e) / e has not.
    series = jnp.zeros_like(values)
    near = jnp.where(small, exponent, 0.0)
    for coefficient in reversed(_SERIES_COEFFICIENTS):
        series = series * near + coefficient
    far = jnp.where(small, 1.0, exponent)
    quotient = jnp.expm1(jnp.minimum(far, cut)) / jnp.where(small, 1.0, rate)
    return jnp.where(small, jnp.where(small, values, 0.0) * series, quotient)


def score(
    log_ratio: jax.Array, divergence: str, alpha: jax.Array, cut: float
) -> jax.Array:
    """The score of one answer, exponents cut at `cut`."""
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return -jnp.expm1(jnp.minimum(-log_ratio, cut))
    if divergence == "js":
        return jnp.log(2.0).astype(log_ratio.dtype) + jax.nn.log_sigmoid(log_ratio)
    return scaled_expm1(log_ratio, alpha - 1.0, cut)


def pair_scores(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    divergence: str,
    divergence_alpha: ArrayLike,
    where: ArrayLike | None,
    squared: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Scores both answers of each pair; `squared` leaves room for a square."""
    checks.one_of("divergence", divergence, DIVERGENCES)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (alpha,) = hyper(a, divergence_alpha=divergence_alpha)
    cut = exponent_cut(a.dtype) * (0.5 if squared else 1.0)
    if divergence == "reverse_kl":
        return a, b
    scores = score(jnp.stack((a, b)), divergence, jnp.stack((alpha, alpha)), cut)
    return scores[0], scores[1]


def pair_margin(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike,
    divergence: str,
    divergence_alpha: ArrayLike,
    where: ArrayLike | None,
) -> jax.Array:
    """Gives beta times the difference of the two scores of each pair."""
    checks.positive(beta=beta)
    a, b = pair_scores(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        divergence=divergence,
        divergence_alpha=divergence_alpha,
        where=where,
    )
    (beta,) = hyper(a, beta=beta)
    return beta * (a - b)


@jit(static_argnames=("divergence",))
def f_divergence_score(
    log_ratio: ArrayLike,
    *,
    divergence: str = "reverse_kl",
    alpha: ArrayLike = 0.5,
) -> jax.Array:
    r"""Scores an answer by the derivative of the divergence that holds the policy.

    .. math::

        \begin{aligned}
        \text{reverse KL:}\quad & a \\
        \text{forward KL:}\quad & 1 - e^{-a} \\
        \text{Jensen-Shannon:}\quad & \log 2 + \log \sigma(a) \\
        \alpha\text{-divergence:}\quad & \bigl(e^{(\alpha - 1) a} - 1\bigr) / (\alpha - 1)
        \end{aligned}

    with :math:`a = \log \pi - \log \pi_{\mathrm{ref}}`. A loss of the difference of two
    log-ratios becomes its counterpart for another divergence when these scores take
    the place of the log-ratios. The fourth is smooth at :math:`\alpha = 1`, where it
    is the first; at :math:`\alpha = 0` it is the second.

    Exponents are cut at 80 in float32 and at 700 in float64, beyond which the score is
    constant: an answer that the policy all but ruled out keeps a finite loss.

    Args:
      log_ratio: log-ratio of each answer, shape ``[...]``.
      divergence: ``"reverse_kl"``, ``"forward_kl"``, ``"js"`` or ``"alpha"``; static.
      alpha: the order of the fourth, a scalar or broadcastable to ``[...]``.

    Returns:
      The scores, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``log_ratio`` or ``alpha`` is not real.
      ValueError: if ``divergence`` is unknown.

    Examples:
      >>> from jaxkit import preference
      >>> score = preference.f_divergence_score(1.0, divergence="forward_kl")
      >>> print(f"{score:.4f}")
      0.6321

    References:
      Wang et al., *Beyond Reverse KL: Generalizing Direct Preference Optimization with
      Diverse Divergence Constraints*, ICLR 2024.
    """
    checks.one_of("divergence", divergence, DIVERGENCES)
    (log_ratio,) = checks.floating(log_ratio=log_ratio)
    log_ratio = log_ratio.astype(accumulation_dtype(log_ratio))
    (alpha,) = hyper(log_ratio, alpha=alpha)
    return score(log_ratio, divergence, alpha, exponent_cut(log_ratio.dtype))
