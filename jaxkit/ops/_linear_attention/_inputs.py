"""Checks and common preparation of the arguments of the linear attention family."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype, promoted_dtype
from jaxkit.ops._linear_attention._decay import combine_resets
from jaxkit.ops._sharding import match_varying
from jaxkit.typing import ArrayLike

__all__ = [
    "Inputs",
    "gate",
    "output_dtype",
    "prepare",
    "start_state",
    "state_shape",
]


class Inputs(NamedTuple):
    """Checked arrays; ``log_decay`` is None or ``[..., T, 1 or H, 1 or K]``."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    log_decay: jax.Array | None
    dtype: jnp.dtype
    """The dtype in which sums are taken."""


def prepare(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    log_decay: ArrayLike | None,
    segment_ids: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    single: bool = False,
) -> Inputs:
    """Checks the sequence arguments and folds segment ids into the decay.

    With ``single`` the arrays hold one token and have no time axis.
    """
    query, key, value = checks.inexact(query=query, key=key, value=value)
    for name, array in (("query", query), ("key", key), ("value", value)):
        checks.min_ndim(name, array, 2 if single else 3)
        if not single:
            checks.axis_size(name, array, -3, 1)
    checks.same_shape(query=query, key=key)
    lead = key.shape[:-1]
    if value.shape[:-1] != lead:
        raise ValueError(
            f"`value` must have shape {(*lead, 'any')} to match `key`, "
            f"got {value.shape}."
        )
    state = None
    if initial_state is not None:
        (state,) = checks.inexact(initial_state=initial_state)
    arrays = (query, key, value) if state is None else (query, key, value, state)
    dtype = accumulation_dtype(*arrays)
    decay = _log_decay(log_decay, key.shape, dtype)
    if segment_ids is not None:
        decay = combine_resets(decay, _resets(segment_ids, lead[:-1]), dtype)
    return Inputs(query, key, value, decay, dtype)


def gate(name: str, array: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Checks a real gate of shape ``[..., T, H]``."""
    (array,) = checks.floating(**{name: array})
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {array.shape}.")
    return array


def start_state(
    name: str,
    state: ArrayLike | None,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    like: tuple[jax.Array | None, ...],
) -> jax.Array:
    """Returns the given or the zero state, varying over the mesh as the inputs do."""
    if state is None:
        array = jnp.zeros(shape, dtype)
    else:
        (array,) = checks.inexact(**{name: state})
        if array.shape != shape:
            raise ValueError(f"`{name}` must have shape {shape}, got {array.shape}.")
        array = array.astype(dtype)
    for other in like:
        if other is not None:
            array = match_varying(array, other)
    return array


def state_shape(x: Inputs) -> tuple[int, ...]:
    """Returns the shape ``[..., H, K, V]`` of the state."""
    *lead, _, heads, features = x.key.shape
    return (*lead, heads, features, x.value.shape[-1])


def output_dtype(x: Inputs) -> jnp.dtype:
    """Returns the promoted dtype of query, key and value."""
    dtype = promoted_dtype(x.query, x.key, x.value)
    # Only a complex initial state can make the outputs of real inputs complex.
    return x.dtype if _is_complex(x.dtype) and not _is_complex(dtype) else dtype


def _is_complex(dtype: jnp.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def _log_decay(
    log_decay: ArrayLike | None, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array | None:
    if log_decay is None:
        return None
    (decay,) = checks.floating(log_decay=log_decay)
    if decay.shape not in (shape, shape[:-1]):
        raise ValueError(
            f"`log_decay` must have shape {shape[:-1]} or {shape}, got {decay.shape}."
        )
    decay = decay if decay.shape == shape else decay[..., None]
    return decay.astype(jnp.finfo(dtype).dtype)


def _resets(segment_ids: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    ids = jnp.asarray(segment_ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`segment_ids` must have an integer dtype, got {ids.dtype}.")
    if ids.shape != shape:
        raise ValueError(f"`segment_ids` must have shape {shape}, got {ids.shape}.")
    changed = ids[..., 1:] != ids[..., :-1]
    # The first token always continues the initial state.
    return jnp.concatenate(
        [jnp.zeros_like(changed, shape=(*shape[:-1], 1)), changed], -1
    )
