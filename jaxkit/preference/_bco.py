"""Binary classifier optimization of a pair."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import hyper, log_ratios
from jaxkit.typing import ArrayLike

__all__ = ["bco_loss"]


@jit()
def bco_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    reward_shift: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Two binary classifications: chosen answers above a shift, rejected below.

    .. math::

        \ell = -\log \sigma(\beta a - \delta) - \log \sigma(\delta - \beta b)

    with slopes :math:`-\beta \sigma(\delta - \beta a)` in :math:`a` and
    :math:`\beta \sigma(\beta b - \delta)` in :math:`b`.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      reward_shift: the threshold :math:`\delta`, a scalar or broadcastable to
        ``[...]``; no gradient flows into it. The paper keeps a running mean of all
        rewards.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a log-probability or hyper-parameter is not real, or ``where`` not
        bool.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> loss = preference.bco_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      1.2888

    References:
      Jung et al., *Binary Classifier Optimization for Large Language Model
      Alignment*, ACL 2025.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    beta, reward_shift = hyper(a, beta=beta, reward_shift=reward_shift)
    shift = jax.lax.stop_gradient(reward_shift)
    loss = jax.nn.softplus(shift - beta * a) + jax.nn.softplus(beta * b - shift)
    return masked_fill(loss, where)
