"""Noise contrastive alignment of a pair."""

import jax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._pairs import hyper, log_ratios
from jaxkit.typing import ArrayLike

__all__ = ["nca_loss"]


@jit()
def nca_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Noise-contrastive loss that also holds the chosen answer's absolute reward.

    .. math::

        \ell = -\log \sigma(\beta a) - \tfrac{1}{2} \log \sigma(-\beta a)
               - \tfrac{1}{2} \log \sigma(-\beta b)

    with slopes :math:`\beta (\tfrac{1}{2} \sigma(\beta a) - \sigma(-\beta a))` in
    :math:`a` and :math:`\tfrac{1}{2} \beta \sigma(\beta b)` in :math:`b`.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
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
      >>> loss = preference.nca_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      1.3388

    References:
      Chen et al., *Noise Contrastive Alignment of Language Models with Explicit
      Rewards*, NeurIPS 2024.
    """
    checks.positive(beta=beta)
    a, b = log_ratios(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, where
    )
    (beta,) = hyper(a, beta=beta)
    loss = jax.nn.softplus(-beta * a) + 0.5 * (
        jax.nn.softplus(beta * a) + jax.nn.softplus(beta * b)
    )
    return masked_fill(loss, where)
