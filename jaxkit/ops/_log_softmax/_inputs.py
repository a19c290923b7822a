"""Checks and common form of the arguments of the functions of a vocabulary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype, promoted_dtype
from jaxkit.ops._masking import masked_fill
from jaxkit.ops._sharding import match_varying
from jaxkit.typing import ArrayLike, PrecisionLike

__all__ = ["Head", "as_labels", "as_mask", "check_labels", "prepare"]


class Head(NamedTuple):
    """Flat tokens and the linear map from them to logits.

    Attributes:
      hidden: the tokens ``[D, N]``, 0 where they do not count, in the accumulation
        dtype, so that the gradients of many tiles are added in it.
      weight: as the caller has it, ``[V, D]`` or ``[D, V]``.
      bias: ``[V]`` in the accumulation dtype, or None.
      labels: ``[N]``, relative to the first row of ``weight``.
      known: whether the label is one of the vocabulary of all devices, ``[N]``.
      inverse_temperature: scalar in the accumulation dtype.
      logit_softcap: scalar in the accumulation dtype, or None.
      vocab_axis: which axis of ``weight`` counts the vocabulary.
      product_dtype: dtype of the factors of the matrix products.
      precision: of the matrix products.
    """

    hidden: jax.Array
    weight: jax.Array
    bias: jax.Array | None
    labels: jax.Array
    known: jax.Array
    inverse_temperature: jax.Array
    logit_softcap: jax.Array | None
    vocab_axis: int
    product_dtype: jnp.dtype
    precision: PrecisionLike

    @property
    def vocabulary(self) -> int:
        """The number of rows, or columns, of the weight at hand."""
        return self.weight.shape[self.vocab_axis]


def as_labels(labels: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Turns labels into an integer array of the shape of the tokens."""
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {array.dtype}.")
    if array.shape != shape:
        raise ValueError(
            f"`labels` must have shape {shape}, one for each token, got {array.shape}."
        )
    # Narrow integers could not hold the numbers they are compared with.
    return array.astype(int)


def as_mask(where: ArrayLike | None, labels: jax.Array) -> jax.Array:
    """The tokens that count: those of `where` whose label is not negative."""
    return (labels >= 0) & checks.mask("where", where, labels.shape)


def prepare(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None,
    vocab_axis: int,
    temperature: ArrayLike,
    logit_softcap: ArrayLike | None,
    chunk_size: int | None,
    axis_name: str | None,
    precision: PrecisionLike,
    where: ArrayLike | None,
) -> tuple[Head, jax.Array]:
    """Checks the arguments; returns the flat head and the mask in full shape."""
    hidden, weight = checks.floating(hidden=hidden, weight=weight)
    _check_weight(hidden, weight, vocab_axis)
    vocabulary = weight.shape[vocab_axis]
    _check_chunk_size(chunk_size, vocabulary)
    labels = as_labels(labels, hidden.shape[:-1])
    mask = as_mask(where, labels)
    if bias is not None:
        (bias,) = checks.floating(bias=bias)
        if bias.shape != (vocabulary,):
            raise ValueError(
                f"`bias` must have shape ({vocabulary},), got {bias.shape}."
            )
    dtype = accumulation_dtype(hidden, weight, *([] if bias is None else [bias]))
    first: jax.Array | int = 0
    total = vocabulary
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name).astype(labels.dtype) * vocabulary
        total *= jax.lax.axis_size(axis_name)
    check_labels(labels, mask, total)
    tokens = masked_fill(hidden, mask[..., None]).reshape(-1, hidden.shape[-1])
    softcap = None
    if logit_softcap is not None:
        softcap = _positive("logit_softcap", logit_softcap, dtype)
    head = Head(
        # One pcast here: the gradient is summed over devices once, not by tile.
        hidden=match_varying(tokens.astype(dtype).T, weight),
        weight=weight,
        bias=None if bias is None else bias.astype(dtype),
        labels=labels.reshape(-1) - first,
        known=labels.reshape(-1) < total,
        inverse_temperature=1.0 / _positive("temperature", temperature, dtype),
        logit_softcap=softcap,
        vocab_axis=vocab_axis,
        product_dtype=promoted_dtype(hidden, weight),
        precision=precision,
    )
    return head, mask


def _check_weight(hidden: jax.Array, weight: jax.Array, vocab_axis: int) -> None:
    if isinstance(vocab_axis, bool) or vocab_axis not in (0, 1):
        raise ValueError(f"`vocab_axis` must be 0 or 1, got {vocab_axis!r}.")
    checks.min_ndim("hidden", hidden, 1)
    features = hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1 - vocab_axis] != features:
        want = f"(V, {features})" if vocab_axis == 0 else f"({features}, V)"
        raise ValueError(
            f"`weight` must have shape {want} for `hidden` of shape {hidden.shape} "
            f"and `vocab_axis={vocab_axis}`, got {weight.shape}."
        )
    checks.axis_size("weight", weight, vocab_axis, 1)


def _check_chunk_size(chunk_size: int | None, vocabulary: int) -> None:
    if chunk_size is None:
        return
    checks.at_least("chunk_size", chunk_size, 1)
    if chunk_size > vocabulary:
        raise ValueError(
            f"`chunk_size` must be at most {vocabulary}, the vocabulary of "
            f"`weight`, got {chunk_size}."
        )


def check_labels(labels: jax.Array, mask: jax.Array, total: int) -> None:
    """Refuses labels out of range, where the caller has asked for such checks."""
    checkify.debug_check(
        jnp.all(~mask | (labels < total)),
        f"`labels` must be less than {total}, the number of classes.",
    )


def _positive(name: str, value: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    (array,) = checks.floating(**{name: value})
    if array.ndim:
        raise ValueError(f"`{name}` must be a scalar, got shape {array.shape}.")
    checkify.debug_check(array > 0, f"`{name}` must be positive.")
    return array.astype(dtype)
