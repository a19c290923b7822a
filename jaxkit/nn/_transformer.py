"""The blocks of a small causal transformer, with or without a cache."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.typing import DTypeLike

__all__ = ["CausalBlock", "DecodingCache", "empty_cache"]

Initializer: TypeAlias = jax.nn.initializers.Initializer


class DecodingCache(NamedTuple):
    """What the tokens so far leave behind for the next one.

    Attributes:
      keys: keys of each layer, shape ``[layers, batch, size, heads, head features]``.
      values: values of each layer, of the same shape.
      where: which of the ``size`` places hold a token, bool ``[batch, size]``.
      filled: how many places are used up, an integer scalar.
    """

    keys: jax.Array
    values: jax.Array
    where: jax.Array
    filled: jax.Array


def empty_cache(
    shape: tuple[int, int, int, int, int], dtype: DTypeLike
) -> DecodingCache:
    """Makes the cache of ``[layers, batch, size, heads, head features]``."""
    return DecodingCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        where=jnp.zeros(shape[1:3], jnp.bool_),
        filled=jnp.zeros((), jnp.int32),
    )


class CausalBlock(nnx.Module):
    """Attention and a network of two layers, each after a norm and added on.

    Args:
      features: features of the input and output.
      num_heads: number of heads.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the projections.
      kernel_init: initializer of the projections.
      rngs: the random streams of Flax.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        precision: PrecisionLike,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        checks.at_least("num_heads", num_heads, 1)
        if features % num_heads:
            raise ValueError(
                f"`features` must be a multiple of `num_heads`, "
                f"got {features} and {num_heads}."
            )

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                kernel_init=kernel_init,
                rngs=rngs,
            )

        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(
                features, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

        self.num_heads = num_heads
        self.precision = precision
        self.attention_norm = norm()
        self.query_key_value = linear(features, 3 * features)
        self.out = linear(features, features)
        self.network_norm = norm()
        self.up = linear(features, 4 * features)
        self.down = linear(4 * features, features)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        memory: tuple[jax.Array, jax.Array] | None = None,
        start: jax.Array | int = 0,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Maps ``[batch, time, features]`` to the same shape.

        Args:
          x: the input.
          mask: which keys each query sees, bool ``[batch, time, keys]``.
          memory: keys and values ``[batch, size, heads, head features]`` to write
            into and to attend to; None attends to the input alone.
          start: the place in the memory of the first input.

        Returns:
          The output, and the keys and values attended to.
        """
        batch, time, features = x.shape
        projected = self.query_key_value(self.attention_norm(x))
        heads = projected.reshape(batch, time, 3, self.num_heads, -1)
        query, key, value = (heads[:, :, i] for i in range(3))
        if memory is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            key, value = (
                write(old, new.astype(old.dtype), start, axis=1)
                for old, new in zip(memory, (key, value), strict=True)
            )
        attended = _attend(query, key, value, mask, self.precision)
        x = x + self.out(attended.reshape(batch, time, features))
        hidden = jax.nn.gelu(self.up(self.network_norm(x)))
        return x + self.down(hidden), (key, value)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    precision: PrecisionLike,
) -> jax.Array:
    """Softmax attention on ``[batch, time, heads, head features]``.

    Not :func:`jax.nn.dot_product_attention`: its softmax is float32 for float64 too.
    """
    wide = accumulation_dtype(query)
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk",
        query,
        key,
        precision=precision,
        preferred_element_type=wide,
    )
    logits = logits / jnp.sqrt(jnp.asarray(query.shape[-1], wide))
    # Not -inf: a row that sees nothing (padding) would be NaN.
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -1e30), axis=-1)
    return jnp.einsum(
        "bhqk,bkhd->bqhd", weights.astype(value.dtype), value, precision=precision
    )
