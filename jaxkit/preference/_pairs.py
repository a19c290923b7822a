"""The log-probabilities of a pair of answers, and how every loss reads them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = [
    "PairLogps",
    "average_log_probs",
    "averages",
    "check_label_smoothing",
    "hyper",
    "log_ratio",
    "log_ratios",
    "real_arrays",
    "scaled",
    "token_counts",
]


class PairLogps(NamedTuple):
    """Log-probabilities of the two answers of each pair, given their prompt.

    Each is the sum over the tokens of the answer, prompt and padding left out.

    Attributes:
      chosen: of the better answer under the policy, shape ``[...]``.
      rejected: of the worse answer under the policy, shape ``[...]``.
      ref_chosen: of the better answer under the frozen reference, shape ``[...]``;
        None if only losses without a reference read the pair.
      ref_rejected: of the worse answer under the frozen reference, as ``ref_chosen``.
    """

    chosen: ArrayLike
    rejected: ArrayLike
    ref_chosen: ArrayLike | None = None
    ref_rejected: ArrayLike | None = None


def real_arrays(where: ArrayLike | None, **arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Gives real arrays of one shape in one dtype, at least float32, masked by 0."""
    reals = checks.floating(**arrays)
    checks.same_shape(**dict(zip(arrays, reals, strict=True)))
    # A Python scalar takes the dtype of the arrays beside it.
    strong = [x for x in reals if not x.aval.weak_type]
    dtype = accumulation_dtype(*(strong or reals))
    return tuple(masked_fill(x.astype(dtype), where) for x in reals)


def log_ratio(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
    """Gives log pi - log ref, with no gradient to the reference."""
    # An answer that the reference cannot give has no log-ratio: not +-infinity, which
    # a sigmoid would quietly turn into 0 or 1.
    reference = jnp.where(jnp.isinf(ref_logps), jnp.nan, ref_logps)
    return logps - jax.lax.stop_gradient(reference)


def log_ratios(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array]:
    """Gives the log-ratios of the chosen and of the rejected answers, 0 where masked."""
    chosen, rejected, ref_chosen, ref_rejected = real_arrays(
        where,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    return log_ratio(chosen, ref_chosen), log_ratio(rejected, ref_rejected)


def token_counts(
    where: ArrayLike | None, like: jax.Array, **lengths: ArrayLike | None
) -> jax.Array:
    """Gives the number of tokens of each answer, at least 1, in the dtype of `like`."""
    ((name, given),) = lengths.items()
    if given is None:
        raise ValueError(f"`{name}` is needed to average over tokens, got None.")
    counts = jnp.asarray(given)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        (counts,) = checks.floating(**{name: counts})
    checks.broadcastable(name, counts, like.shape)
    counts = jnp.broadcast_to(counts.astype(like.dtype), like.shape)
    counts = jax.lax.stop_gradient(masked_fill(counts, where, fill=1.0))
    return jnp.maximum(counts, 1.0)


def averages(
    where: ArrayLike | None, values: jax.Array, **lengths: ArrayLike | None
) -> jax.Array:
    """Divides sums over tokens by the number of tokens."""
    return values / token_counts(where, values, **lengths)


def average_log_probs(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike | None,
    rejected_lengths: ArrayLike | None,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array]:
    """Gives the log-probabilities per token of both answers, 0 where masked."""
    chosen, rejected = real_arrays(
        where, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    return (
        averages(where, chosen, chosen_lengths=chosen_lengths),
        averages(where, rejected, rejected_lengths=rejected_lengths),
    )


def hyper(like: jax.Array, **values: ArrayLike) -> tuple[jax.Array, ...]:
    """Brings hyper-parameters, scalars or one per pair, to the shape of the pairs."""
    out = []
    for name, value in zip(values, checks.floating(**values), strict=True):
        checks.broadcastable(name, value, like.shape)
        out.append(jnp.broadcast_to(value.astype(like.dtype), like.shape))
    return tuple(out)


def check_label_smoothing(
    value: ArrayLike, *, low_open: bool = False, high_open: bool = False
) -> None:
    """Does the same for a label smoothing, between 0 and 1/2."""
    checks.within(
        "label_smoothing",
        value,
        low=0.0,
        high=0.5,
        low_open=low_open,
        high_open=high_open,
    )


def scaled(factor: jax.Array, margin: jax.Array) -> jax.Array:
    """Multiplies so that a factor of 0 silences an infinite margin."""
    silent = (factor == 0) & jnp.isinf(margin)
    return factor * masked_fill(margin, ~silent)
