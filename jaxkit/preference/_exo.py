"""Exact preference optimization: a reverse KL divergence to soft labels."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill
from jaxkit.preference._divergence import pair_margin
from jaxkit.preference._pairs import check_label_smoothing, hyper
from jaxkit.typing import ArrayLike

__all__ = ["exo_loss"]


@jit(static_argnames=("divergence",))
def exo_loss(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 1e-3,
    divergence: str = "reverse_kl",
    divergence_alpha: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Reverse KL divergence of the preference model to softened labels.

    .. math::

        \ell = \sigma(m) \log \frac{\sigma(m)}{1 - \epsilon}
             + \sigma(-m) \log \frac{\sigma(-m)}{\epsilon}, \qquad m = \beta (a - b)

    with slope :math:`\sigma(m) \sigma(-m) \bigl(m - \log(1/\epsilon - 1)\bigr)`: it ends
    at the margin that the labels imply.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      rejected_logps: the same of the rejected answers.
      ref_chosen_logps: log-probability of each chosen answer under the reference; no
        gradient flows into it, and ``-inf`` gives NaN.
      ref_rejected_logps: the same of the rejected answers.
      beta: how closely to stay to the reference, a positive scalar or broadcastable
        to ``[...]``.
      label_smoothing: the fraction :math:`\epsilon` of labels taken to be wrong,
        positive and at most 1/2; at 0 the loss is infinite.
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
      >>> loss = preference.exo_loss(-10.0, -14.0, -11.0, -13.0)
      >>> print(f"{loss:.4f}")
      2.4220

    References:
      Ji et al., *Towards Efficient Exact Optimization of Language Model Alignment*,
      ICML 2024.
    """
    check_label_smoothing(label_smoothing, low_open=True)
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
    # 0 log 0 at an infinite margin; from far below it the loss is constant anyway.
    margin = jnp.clip(margin, -1e30, 1e30)
    right = jax.nn.log_sigmoid(margin) - jnp.log1p(-label_smoothing)
    wrong = jax.nn.log_sigmoid(-margin) - jnp.log(label_smoothing)
    loss = jax.nn.sigmoid(margin) * right + jax.nn.sigmoid(-margin) * wrong
    return masked_fill(loss, where)
