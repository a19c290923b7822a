"""The hinge loss of the margin."""

import jax

from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_margin
from jaxkit.typing import ArrayLike

__all__ = ["hinge_loss"]


@jit(static_argnames=("divergence",))
def hinge_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Hinge loss of the margin.

    .. math:: \ell = \max(0, 1 - m), \qquad m = \beta (a - b)

    with slope :math:`-1` below :math:`m = 1` and 0 from there on.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      divergence: the divergence that holds the policy to the reference, see
        :func:`f_divergence_score`; static.
      divergence_alpha: the order of the divergence ``"alpha"``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ or ``divergence`` is unknown.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.hinge_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.8000

    References:
      Zhao et al., *SLiC-HF: Sequence Likelihood Calibration with Human Feedback*,
      2023; Liu et al., *Statistical Rejection Sampling Improves Preference
      Optimization*, ICLR 2024, for the margin of log-ratios.
    """
    margin = pair_margin(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
        divergence=divergence,
        divergence_alpha=divergence_alpha,
        where=where,
    )
    # relu and not maximum: its slope at the corner is 0, not 1/2.
    return masked_fill(jax.nn.relu(1.0 - margin), where)
