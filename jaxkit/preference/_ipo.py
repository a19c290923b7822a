"""The squared loss of identity preference optimization."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_scores
from jaxkit.preference._pairs import averages, hyper
from jaxkit.typing import ArrayLike

__all__ = ["ipo_loss"]


@jit(
    static_argnames=(
        "divergence",
        "length_normalize",
    )
)
def ipo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    *,
    beta: ArrayLike = 0.1,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    length_normalize: bool = True,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Squared distance of the margin to a fixed target.

    .. math::

        \ell = \Bigl(\frac{a}{n_w} - \frac{b}{n_l} - \frac{1}{2 \beta}\Bigr)^2

    with the numbers of tokens :math:`n_w` and :math:`n_l`; without ``length_normalize``
    both are 1, as in the paper. Past the target the slopes change sign.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1; needed with ``length_normalize``.
      rejected_lengths: the same of the rejected answers.
      beta: the regularization, called :math:`\tau` in the paper; a positive scalar or
        broadcastable to ``[...]``.
      divergence: the divergence that holds the policy to the reference, see
        :func:`f_divergence_score`; static.
      divergence_alpha: the order of the divergence ``"alpha"``.
      length_normalize: whether log-ratios are taken per token; static.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ, ``divergence`` is unknown, or lengths are missing.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.ipo_loss(-10.0, -14.0, -11.0, -13.0, length_normalize=False)
      >>> print(f"{loss:.4f}")
      9.0000

    References:
      Azar et al., *A General Theoretical Paradigm to Understand Learning from Human
      Preferences*, AISTATS 2024, eq. 17.
    """
    checks.positive(beta=beta)
    a, b = pair_scores(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        divergence=divergence,
        divergence_alpha=divergence_alpha,
        where=where,
        squared=True,
    )
    (beta,) = hyper(a, beta=beta)
    if length_normalize:
        a = averages(where, a, chosen_lengths=chosen_lengths)
        b = averages(where, b, rejected_lengths=rejected_lengths)
    return masked_fill(jnp.square(a - b - 0.5 / beta), where)
