"""Relatives of the self-exploring loss under the names of their papers."""

import jax

from jaxkit._core.jit import jit
from jaxkit.preference._exploration import selm_loss
from jaxkit.typing import ArrayLike

__all__ = ["se_popo_loss", "vpo_loss", "xpo_loss"]


@jit()
def xpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    explore_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    alpha: ArrayLike = 1e-5,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    explore_where: ArrayLike | None = None,
) -> jax.Array:
    r"""Exploratory preference optimization.

    .. math:: \ell = \ell_{\mathrm{DPO}} + \alpha \log \pi(y')

    The coefficient has no :math:`\beta`, so that it equals :func:`selm_loss` with
    :math:`\alpha_{\mathrm{SELM}} = \alpha / \beta`, up to a constant. XPO keeps the
    reference fixed and all pairs of former rounds, draws :math:`y'` from the
    reference, and also pairs it with the answer of the policy.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      explore_logps: the same of the exploration answers :math:`y'`.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      alpha: strength of the exploration, a scalar or broadcastable to ``[...]``.
      beta: how closely to stay to the reference, positive, as ``alpha``.
      label_smoothing: fraction of labels taken to be wrong, between 0 and 1/2.
      where: which pairs count, bool; the DPO part of the others is 0.
      explore_where: which exploration answers count, bool; None means all.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or a mask not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps = (jnp.array([x]) for x in (-10., -14., -20., -11., -13.))
      >>> loss = preference.xpo_loss(*logps, alpha=1e-3)
      >>> print(f"{loss[0]:.4f}")
      0.5781

    References:
      Xie et al., *Exploratory Preference Optimization*, ICLR 2025, algorithm 1.
    """
    return selm_loss(
        chosen_logps,
        rejected_logps,
        explore_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        explore_logps,
        alpha=alpha,
        beta=beta,
        label_smoothing=label_smoothing,
        bonus="log_prob",
        where=where,
        explore_where=explore_where,
    )


@jit()
def vpo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    calibration_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    ref_calibration_logps: ArrayLike,
    *,
    alpha: ArrayLike = 1e-3,
    beta: ArrayLike = 0.1,
    sign: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    calibration_where: ArrayLike | None = None,
) -> jax.Array:
    r"""Value-incentivized preference optimization.

    .. math::

        \ell = \ell_{\mathrm{DPO}} + \mathrm{sign} \cdot \alpha \beta
        \bigl(\log \pi(y_c) - \log \pi_{\mathrm{ref}}(y_c)\bigr)

    The loss of :func:`selm_loss` with an answer :math:`y_c` of any calibration
    distribution: optimistic online, pessimistic (``sign=-1``) on a fixed dataset.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      calibration_logps: the same of the calibration answers :math:`y_c`.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      ref_calibration_logps: the same of the calibration answers.
      alpha: strength of the term, a scalar or broadcastable to ``[...]``.
      beta: how closely to stay to the reference, positive, as ``alpha``.
      sign: 1 online, -1 offline.
      label_smoothing: fraction of labels taken to be wrong, between 0 and 1/2.
      where: which pairs count, bool; the DPO part of the others is 0.
      calibration_where: which calibration answers count, bool; None means all.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or a mask not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps = [jnp.array([x]) for x in (-10., -14., -20., -11., -13., -18.)]
      >>> loss = preference.vpo_loss(*logps, alpha=0.01, sign=-1.0)
      >>> print(f"{loss[0]:.4f}")
      0.6001

    References:
      Cen et al., *Value-Incentivized Preference Optimization*, ICLR 2025.
    """
    return selm_loss(
        chosen_logps,
        rejected_logps,
        calibration_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        ref_calibration_logps,
        alpha=alpha,
        beta=beta,
        sign=sign,
        label_smoothing=label_smoothing,
        where=where,
        explore_where=calibration_where,
    )


@jit()
def se_popo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    explore_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    ref_explore_logps: ArrayLike,
    *,
    alpha: ArrayLike = 1e-3,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    explore_where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO with a bounded bonus on the preference over the reference.

    .. math::

        \ell = \ell_{\mathrm{DPO}} + \frac{\alpha}{\beta} \left(\sigma\bigl(\beta
        (\log \pi(y') - \log \pi_{\mathrm{ref}}(y'))\bigr) - \tfrac12\right)

    The answer :math:`y'` is the first of the two sampled, whether it won or lost.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      explore_logps: the same of the exploration answers :math:`y'`.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it.
      ref_rejected_logps: the same of the rejected answers.
      ref_explore_logps: the same of the exploration answers.
      alpha: strength of the exploration, a scalar or broadcastable to ``[...]``.
      beta: how closely to stay to the reference, positive, as ``alpha``.
      label_smoothing: fraction of labels taken to be wrong, between 0 and 1/2.
      where: which pairs count, bool; the DPO part of the others is 0.
      explore_where: which exploration answers count, bool; None means all.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or a mask not bool.
      ValueError: if shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps = [jnp.array([x]) for x in (-10., -14., -20., -11., -13., -18.)]
      >>> loss = preference.se_popo_loss(*logps, alpha=0.01)
      >>> print(f"{loss[0]:.4f}")
      0.5932

    References:
      Chen et al., *Avoiding exp(Rmax) scaling in RLHF through preference-based
      exploration*, 2025.
    """
    return selm_loss(
        chosen_logps,
        rejected_logps,
        explore_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        ref_explore_logps,
        alpha=alpha,
        beta=beta,
        label_smoothing=label_smoothing,
        bonus="sigmoid",
        where=where,
        explore_where=explore_where,
    )
