"""Direct preference optimization: logistic losses of the margin."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_margin, pair_scores
from jaxkit.preference._pairs import (
    averages,
    check_label_smoothing,
    hyper,
    scaled,
)
from jaxkit.typing import ArrayLike

__all__ = [
    "dpo_loss",
    "length_normalized_dpo_loss",
    "robust_dpo_loss",
    "smoothed_logistic",
]


def smoothed_logistic(margin: jax.Array, label_smoothing: jax.Array) -> jax.Array:
    """The logistic loss when a fraction of the labels is taken to be wrong."""
    # (1-e) softplus(-m) + e softplus(m), with softplus(m) = softplus(-m) + m.
    return jax.nn.softplus(-margin) + scaled(label_smoothing, margin)


@jit(static_argnames=("divergence",))
def dpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of the preferences under a Bradley-Terry model.

    .. math::

        \ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
        m = \beta (a - b)

    with the log-ratios :math:`a` and :math:`b` of the chosen and the rejected answer to
    the reference. Its slope is
    :math:`\partial \ell / \partial m = \sigma(m) - (1 - \epsilon)`. A positive
    :math:`\epsilon` gives the conservative form, which stops at a finite margin.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers. Where it is ``-inf`` the loss
        is 0 (without label smoothing).
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        between 0 and 1/2.
      divergence: the divergence that holds the policy to the reference, see
        :func:`f_divergence_score`; static.
      divergence_alpha: the order of the divergence ``"alpha"``.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient. Leave out pairs of identical answers.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ or ``divergence`` is unknown.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.dpo_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.5981

    References:
      Rafailov et al., *Direct Preference Optimization: Your Language Model is
      Secretly a Reward Model*, NeurIPS 2023, eq. 7; Mitchell, *A note on DPO with
      noisy preferences & relationship to IPO*, 2023, for the label smoothing.
    """
    check_label_smoothing(label_smoothing)
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
    (label_smoothing,) = hyper(margin, label_smoothing=label_smoothing)
    return masked_fill(smoothed_logistic(margin, label_smoothing), where)


@jit(static_argnames=("divergence",))
def robust_dpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.1,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logistic loss whose mean over flipped labels is that of the true ones.

    .. math::

        \ell = \frac{-(1 - \epsilon) \log \sigma(m) + \epsilon \log \sigma(-m)}
                    {1 - 2 \epsilon}
             = -\log \sigma(m) - \frac{\epsilon}{1 - 2 \epsilon} m, \qquad
        m = \beta (a - b)

    with slope :math:`-\sigma(-m) - \epsilon / (1 - 2 \epsilon)`. It is unbounded below:
    a large margin keeps paying.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      label_smoothing: the fraction :math:`\epsilon` of labels that are flipped, at
        least 0 and below 1/2.
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
      >>> loss = preference.robust_dpo_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      0.5731

    References:
      Chowdhury et al., *Provably Robust DPO: Aligning Language Models with Noisy
      Feedback*, ICML 2024.
    """
    check_label_smoothing(label_smoothing, high_open=True)
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
    (label_smoothing,) = hyper(margin, label_smoothing=label_smoothing)
    reward = label_smoothing / (1.0 - 2.0 * label_smoothing)
    return masked_fill(jax.nn.softplus(-margin) - scaled(reward, margin), where)


@jit(static_argnames=("divergence",))
def length_normalized_dpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logistic loss of the difference of log-ratios per token.

    .. math::

        \ell = -\log \sigma\bigl(\beta (a / n_w - b / n_l)\bigr)

    with the numbers of tokens :math:`n_w` and :math:`n_l` of the two answers. The slopes
    in the two log-probabilities differ by the factor :math:`n_l / n_w`.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      rejected_lengths: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``. Log-ratios per token are small: published values are near 5.
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
      >>> loss = preference.length_normalized_dpo_loss(-10.0, -14.0, -11.0, -13.0, 5, 8, beta=2.0)
      >>> print(f"{loss:.4f}")
      0.4201

    References:
      Lambert et al., *Tulu 3: Pushing Frontiers in Open Language Model
      Post-Training*, 2024, section 5.
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
    )
    (beta,) = hyper(a, beta=beta)
    a = averages(where, a, chosen_lengths=chosen_lengths)
    b = averages(where, b, rejected_lengths=rejected_lengths)
    return masked_fill(jax.nn.softplus(-beta * (a - b)), where)
