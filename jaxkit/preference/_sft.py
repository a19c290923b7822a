"""Supervised fine-tuning on the chosen answers."""

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.ops import masked_fill, masked_mean
from jaxkit.preference._pairs import averages, real_arrays, token_counts
from jaxkit.typing import ArrayLike

__all__ = ["sft_loss"]


@jit(static_argnames=("token_average",))
def sft_loss(
    chosen_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    *,
    token_average: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative log-likelihood per token of the chosen answers.

    .. math:: \ell = -\log \pi_w / n_w

    A second term beside a preference loss. With ``token_average`` answer :math:`i` gives
    :math:`-\log \pi_{w,i} / \bar n` with the mean length :math:`\bar n` of the answers
    that count, so that the mean over the batch is the mean over all of its tokens.

    Args:
      chosen_logps: log-probability of each chosen answer under the policy, shape
        ``[...]``.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; 0 counts as 1.
      token_average: whether long answers weigh more; static.
      where: which answers count, bool, broadcastable to ``[...]``; the others give 0
        and no gradient.

    Returns:
      The loss of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if the lengths are missing or do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> print(preference.sft_loss(jnp.array([-10.0, -6.0]), jnp.array([5, 4])))
      [2.  1.5]

    References:
      Ouyang et al., *Training Language Models to Follow Instructions with Human
      Feedback*, NeurIPS 2022, section 3.5.
    """
    (chosen,) = real_arrays(where, chosen_logps=chosen_logps)
    if not token_average:
        return masked_fill(
            -averages(where, chosen, chosen_lengths=chosen_lengths), where
        )
    counts = token_counts(where, chosen, chosen_lengths=chosen_lengths)
    mean = masked_mean(counts, where=where)
    return masked_fill(-chosen / jnp.maximum(mean, 1.0), where)
