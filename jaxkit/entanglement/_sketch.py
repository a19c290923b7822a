"""Short random summaries of gradients that keep their inner products."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._gram import LogProb, scalar_valued
from jaxkit.entanglement._inputs import float_leaves, leading_size
from jaxkit.typing import Key, PyTree

__all__ = ["sketch_gradients"]


def sketch_gradients(
    key: Key,
    log_prob: LogProb,
    params: PyTree,
    examples: PyTree,
    *,
    num_features: int = 1024,
    chunk_size: int | None = None,
) -> jax.Array:
    r"""Summarizes the gradient of each example by a few random sums of its entries.

    .. math:: z_{i,b} = \sum_{p \,:\, h(p) = b} \sigma_p \, g_{i,p}, \qquad
       \mathbb E \langle z_i, z_j \rangle = \langle g_i, g_j \rangle

    with random signs :math:`\sigma_p` and buckets :math:`h(p)`, the same for all
    examples: every entry of the gradient goes to one bucket. The error of a cosine
    :math:`\rho` is about :math:`\sqrt{(1 + \rho^2) / k}` with ``k`` features. Entries
    next to one another go to different buckets, which only lowers the error.

    Args:
      key: a typed random key.
      log_prob: ``log_prob(params, example)``, a scalar.
      params: pytree of floating arrays.
      examples: a pytree with leading axis ``N``.
      num_features: number of buckets ``k``.
      chunk_size: how many gradients are kept at once; None keeps all ``N``.

    Returns:
      The summaries, shape ``[N, k]``, at least float32.

    Raises:
      TypeError: if a leaf of ``params`` is not floating or ``key`` is no typed key.
      ValueError: if a size is less than 1, the leading axes differ, or ``log_prob``
        does not return a scalar.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
      >>> z = entanglement.sketch_gradients(
      ...     jax.random.key(0), jnp.vdot, jnp.zeros(2), x, num_features=8
      ... )
      >>> print(jnp.sum(z**2, axis=1))
      [25.  0.]

    References:
      Charikar, Chen and Farach-Colton, *Finding Frequent Items in Data Streams*,
      ICALP 2002 (the count sketch).
    """
    checks.typed_key(key)
    checks.at_least("num_features", num_features, 1)
    float_leaves(params=params)
    num_examples = leading_size("examples", examples)
    size = num_examples if chunk_size is None else chunk_size
    checks.at_least("chunk_size", size, 1)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    hashes = [
        _hash(k, leaf, num_features) for k, leaf in zip(keys, leaves, strict=True)
    ]
    gradient = jax.grad(scalar_valued(log_prob))
    dtype = accumulation_dtype(*leaves)

    def summary(example: PyTree) -> jax.Array:
        grads = structure.flatten_up_to(gradient(params, example))
        parts = (
            _sketch(g.astype(dtype), *h) for g, h in zip(grads, hashes, strict=True)
        )
        return sum(parts, jnp.zeros(num_features, dtype))

    return jax.lax.map(summary, examples, batch_size=size)


def _hash(key: Key, leaf: Any, num_features: int) -> tuple[jax.Array, jax.Array]:
    """Random signs, and for each row and bucket the column that falls into it."""
    sign_key, shift_key = jax.random.split(key)
    rows = max(1, math.ceil(leaf.size / num_features))
    signs = jax.random.bernoulli(sign_key, shape=(rows, num_features))
    # A gather, since scattered sums are slow: each row of entries is turned around
    # by its own random distance.
    shifts = jax.random.randint(shift_key, (rows, 1), 0, num_features)
    buckets = jnp.arange(num_features)[None, :]
    return signs, (buckets + shifts) % num_features


def _sketch(grad: jax.Array, signs: jax.Array, columns: jax.Array) -> jax.Array:
    flat = jnp.pad(grad.reshape(-1), (0, signs.size - grad.size)).reshape(signs.shape)
    turned = jnp.take_along_axis(jnp.where(signs, flat, -flat), columns, axis=1)
    return jnp.sum(turned, axis=0)
