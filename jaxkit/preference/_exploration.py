"""The self-exploring loss: a preference loss and a bonus on one more answer."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._dpo import dpo_loss
from jaxkit.preference._pairs import hyper, log_ratio, real_arrays
from jaxkit.typing import ArrayLike

__all__ = ["exploration_bonus", "selm_loss"]

_BONUSES = ("log_ratio", "log_prob", "sigmoid", "prob_ratio", "prob")


@jit(static_argnames=("bonus",))
def exploration_bonus(
    explore_logps: ArrayLike,
    ref_explore_logps: ArrayLike,
    *,
    alpha: ArrayLike = 1e-3,
    beta: ArrayLike = 0.01,
    bonus: str = "log_ratio",
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Term that, added to a loss, pushes the policy off one answer per prompt.

    With :math:`d = \log \pi(y') - \log \pi_{\mathrm{ref}}(y')` the choices are

    .. math::

        \text{log\_ratio: } \alpha \beta \, d, \qquad
        \text{log\_prob: } \alpha \log \pi(y'), \qquad
        \text{sigmoid: } \frac{\alpha}{\beta} \left(\sigma(\beta d) - \tfrac12\right),

    .. math::

        \text{prob\_ratio: } \alpha \beta \, e^{\min(d, 0)}, \qquad
        \text{prob: } \alpha \beta \, \pi(y').

    Minimizing it lowers the probability of :math:`y'`. The first two have no lower
    bound: a large ``alpha`` or many steps annihilate the answer. The other three are
    bounded; ``"prob"`` vanishes for long answers, whose probability is about 0.

    The coefficient of a log-ratio is :math:`\alpha \beta`, the convention of the
    objective in the paper and of its published code. The algorithm listings of the
    paper and XPO put :math:`\alpha` alone: that is ``"log_prob"``.

    At :math:`d = 0`, where every round starts, ``"prob_ratio"`` has the slope
    :math:`\alpha \beta` of the side below; above, it has none.

    Args:
      explore_logps: log-probability of each exploration answer under the policy,
        shape ``[...]``.
      ref_explore_logps: the same under the reference, ``[...]``; no gradient flows
        into it, and an infinity gives NaN where it is read.
      alpha: strength of the exploration, a scalar or broadcastable to ``[...]``.
      beta: how closely to stay to the reference, positive, as ``alpha``.
      bonus: which of the five; static.
      where: which answers count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The bonus of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ or ``bonus`` is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> bonus = preference.exploration_bonus(
      ...     jnp.array([-20.0]), jnp.array([-18.0]), alpha=0.01, beta=0.1)
      >>> print(bonus)
      [-0.002]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, eq. 4.2 (log_ratio);
      Xie et al., *Exploratory Preference Optimization*, 2024 (log_prob); Chen et al.,
      *Avoiding exp(Rmax) scaling in RLHF*, 2025 (sigmoid).
    """
    checks.one_of("bonus", bonus, _BONUSES)
    checks.positive(beta=beta)
    logps, ref_logps = real_arrays(
        where, explore_logps=explore_logps, ref_explore_logps=ref_explore_logps
    )
    alpha, beta = hyper(logps, alpha=alpha, beta=beta)
    return masked_fill(_bonus(bonus, logps, ref_logps, alpha, beta), where)


def _bonus(
    bonus: str,
    logps: jax.Array,
    ref_logps: jax.Array,
    alpha: jax.Array,
    beta: jax.Array,
) -> jax.Array:
    if bonus == "log_prob":
        return alpha * logps
    if bonus == "prob":
        return alpha * beta * jnp.exp(logps)
    ratio = log_ratio(logps, ref_logps)
    if bonus == "log_ratio":
        return alpha * beta * ratio
    if bonus == "sigmoid":
        # sigmoid(u) - 1/2 = tanh(u / 2) / 2, exact for small u.
        return 0.5 * alpha * jnp.tanh(0.5 * beta * ratio) / beta
    # Not jnp.minimum: it would halve the slope at 0, where each round starts.
    return alpha * beta * jnp.exp(jnp.where(ratio > 0, 0.0, ratio))


@jit(static_argnames=("bonus",))
def selm_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    explore_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    ref_explore_logps: ArrayLike,
    *,
    alpha: ArrayLike = 1e-3,
    beta: ArrayLike = 0.01,
    label_smoothing: ArrayLike = 0.0,
    bonus: str = "log_ratio",
    sign: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    explore_where: ArrayLike | None = None,
) -> jax.Array:
    r"""DPO made optimistic: the likelihood of one more answer goes down.

    .. math::

        \ell = \ell_{\mathrm{DPO}} + \mathrm{sign} \cdot \alpha \beta
        \bigl(\log \pi(y') - \log \pi_{\mathrm{ref}}(y')\bigr)

    for ``bonus="log_ratio"``. Three conventions are in use for the second term. Ours
    is that of the published code: the coefficient is :math:`\alpha \beta`, it
    multiplies the log-ratio, and :math:`y'` is **one greedy answer of the current
    reference**, fixed for the round. The objective of the paper (eq. 4.2) has the
    same coefficient and the expectation over :math:`y' \sim \pi_{\mathrm{ref}}`; the
    paper's algorithm listings and XPO have :math:`\alpha` without :math:`\beta`, see
    :func:`xpo_loss`.

    Which answer to pass matters more than the convention. With :math:`y'` drawn from
    the reference the expected gradient of the term is 0 where training starts, and
    it adds no exploration; a greedy :math:`y'` pushes steadily off the mode. If
    :math:`y'` is the chosen answer, the two pushes on it balance at
    :math:`\sigma(-m) = \alpha (1 - \pi_w)`: keep ``alpha`` below 1/2 there.

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
      bonus: the form of the term, see :func:`exploration_bonus`; static.
      sign: 1 for optimism, -1 for pessimism.
      where: which pairs count, bool; the DPO part of the others is 0.
      explore_where: which exploration answers count, bool; None means all, also
        beside a pair that does not count.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or a mask not bool.
      ValueError: if shapes differ or ``bonus`` is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> logps = (jnp.array([x]) for x in (-10., -14., -20., -11., -13., -18.))
      >>> loss = preference.selm_loss(*logps, alpha=0.01, beta=0.1)
      >>> print(f"{loss[0]:.4f}")
      0.5961

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, eq. 4.2.
    """
    checks.one_of("bonus", bonus, _BONUSES)
    arrays = real_arrays(
        None,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        explore_logps=explore_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        ref_explore_logps=ref_explore_logps,
    )
    chosen, rejected, explore, ref_chosen, ref_rejected, ref_explore = arrays
    pair = (chosen, rejected, ref_chosen, ref_rejected)
    loss = dpo_loss(*pair, beta=beta, label_smoothing=label_smoothing, where=where)
    term = exploration_bonus(
        explore, ref_explore, alpha=alpha, beta=beta, bonus=bonus, where=explore_where
    )
    return loss + hyper(loss, sign=sign)[0] * term
