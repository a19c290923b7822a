"""What to watch while a policy learns from pairs."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.ops import masked_mean
from jaxkit.preference._pairs import (
    PairLogps,
    hyper,
    log_ratio,
    log_ratios,
    real_arrays,
)
from jaxkit.typing import ArrayLike

__all__ = ["implicit_reward", "preference_metrics"]


@jit()
def implicit_reward(
    logps: ArrayLike, ref_logps: ArrayLike, *, beta: ArrayLike = 0.1
) -> jax.Array:
    r"""The reward for which the policy is optimal, up to a constant per prompt.

    .. math:: \hat r(x, y) = \beta \bigl(\log \pi(y|x) - \log \pi_{\mathrm{ref}}(y|x)\bigr)

    Args:
      logps: log-probability of each answer under the policy, shape ``[...]``.
      ref_logps: the same under the reference; no gradient flows into it, and ``-inf``
        gives NaN.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.

    Returns:
      The reward of each answer, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if shapes differ.

    Examples:
      >>> from jaxkit import preference
      >>> print(f"{preference.implicit_reward(-10.0, -11.0):.4f}")
      0.1000

    References:
      Rafailov et al., *Direct Preference Optimization: Your Language Model is Secretly
      a Reward Model*, NeurIPS 2023, eq. 5.
    """
    checks.positive(beta=beta)
    logps, ref_logps = real_arrays(None, logps=logps, ref_logps=ref_logps)
    (beta,) = hyper(logps, beta=beta)
    return beta * log_ratio(logps, ref_logps)


@jit()
def preference_metrics(
    pair: PairLogps, *, beta: ArrayLike = 0.1, where: ArrayLike | None = None
) -> dict[str, jax.Array]:
    r"""Averages rewards, margins and accuracy over the pairs that count.

    With the log-ratios :math:`a` and :math:`b` of the chosen and the rejected answer:

    .. math::

        \texttt{reward\_chosen} = \langle \beta a \rangle, \quad
        \texttt{reward\_rejected} = \langle \beta b \rangle, \quad
        \texttt{margin} = \langle \beta (a - b) \rangle, \quad
        \texttt{accuracy} = \langle 1[a > b] \rangle

    and ``chosen_logps``, ``rejected_logps``, the mean log-probabilities under the
    policy. ``kl_to_ref`` is :math:`\langle a \rangle`, which estimates the KL
    divergence from the policy to the reference *if* the chosen answers were sampled
    from the policy, and means nothing else otherwise.

    Args:
      pair: the log-probabilities, shape ``[...]``, with those of the reference.
      beta: how closely to stay to the reference, a positive scalar or broadcastable to
        ``[...]``.
      where: which pairs count, bool, broadcastable to ``[...]``.

    Returns:
      Seven scalars by name, at least float32. Ties do not count as accurate.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ, or the pair has no reference.

    Examples:
      >>> from jaxkit import preference
      >>> pair = preference.PairLogps(-10.0, -14.0, -11.0, -13.0)
      >>> metrics = preference.preference_metrics(pair)
      >>> print(f"{metrics['margin']:.4f} {metrics['accuracy']:.1f}")
      0.2000 1.0
    """
    ref_chosen, ref_rejected = pair.ref_chosen, pair.ref_rejected
    if ref_chosen is None or ref_rejected is None:
        raise ValueError("The rewards need `pair.ref_chosen` and `pair.ref_rejected`.")
    checks.positive(beta=beta)
    a, b = log_ratios(pair.chosen, pair.rejected, ref_chosen, ref_rejected, where)
    (beta,) = hyper(a, beta=beta)
    chosen, rejected = real_arrays(where, chosen=pair.chosen, rejected=pair.rejected)
    columns = {
        "reward_chosen": beta * a,
        "reward_rejected": beta * b,
        "margin": beta * (a - b),
        "accuracy": jnp.where(a > b, 1.0, 0.0).astype(a.dtype),
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "kl_to_ref": a,
    }
    return {name: masked_mean(x, where=where) for name, x in columns.items()}
