"""Modules of the entanglement system: a transformer that counts, a gate per token."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import entanglement, ops
from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.typing import DTypeLike

__all__ = ["CausalTransformer", "TokenGate"]

Initializer: TypeAlias = jax.nn.initializers.Initializer
Accumulator: TypeAlias = jax.Array | Mapping[str, jax.Array] | None

_default_init = nnx.initializers.lecun_normal()


class CausalTransformer(nnx.Module):
    r"""A small causal language model made of operations with an accumulator.

    .. math:: \log \pi(y \mid x) = \sum_{t \in y} \log
       \mathrm{softmax}(W h_{t-1})_{y_t}

    A transformer with norms before each part, learned positions and a head of its
    own. Without an accumulator it is an ordinary model with every derivative; with
    one, a backward pass through :meth:`log_probs` also gives the pair Gram, see
    :func:`jaxkit.entanglement.accumulated_pair_gram`. The accumulator may be a dict:
    its names pick the groups to count, the others stay ordinary.

    Args:
      vocab_size: number of tokens ``V``.
      features: features ``D`` of the hidden states.
      num_layers: number of blocks.
      num_heads: number of heads; must divide ``features``.
      max_length: the longest sequence, and the number of learned positions.
      dtype: dtype of the computation; None takes that of the parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the projections.
      kernel_init: initializer of tables and projections.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1 or the heads do not divide the features.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> model = jaxkit.nn.CausalTransformer(
      ...     11, 8, num_layers=1, num_heads=2, max_length=6, rngs=nnx.Rngs(0)
      ... )
      >>> graphdef, variables = nnx.split(model, nnx.Param)
      >>> def log_prob(params, accumulator, tokens):
      ...     model = nnx.merge(graphdef, params)
      ...     return model.log_probs(tokens, accumulator=accumulator)
      >>> tokens = jnp.array([[1, 2, 3, 4], [1, 2, 5, 4]])
      >>> pair_gram = jax.jit(
      ...     lambda params: jaxkit.entanglement.accumulated_pair_gram(
      ...         log_prob, params, tokens
      ...     )
      ... )
      >>> pair_gram(nnx.to_pure_dict(variables)).cross.shape
      (1,)

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (the inner products).
    """

    def __init__(
        self,
        vocab_size: int,
        features: int,
        num_layers: int,
        num_heads: int,
        *,
        max_length: int,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _default_init,
        rngs: nnx.Rngs,
    ):
        sizes = {
            "vocab_size": vocab_size,
            "features": features,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "max_length": max_length,
        }
        for name, size in sizes.items():
            checks.at_least(name, size, 1)
        if features % num_heads:
            raise ValueError(
                f"`features` must be a multiple of `num_heads`, "
                f"got {features} and {num_heads}."
            )

        def table(rows: int) -> nnx.Param[jax.Array]:
            # The kernel of a map from features to tokens: scaled by the features.
            kernel = kernel_init(rngs.params(), (features, rows), param_dtype)
            return nnx.Param(kernel.T)

        def dense(inputs: int, outputs: int) -> _Dense:
            return _Dense(
                inputs,
                outputs,
                param_dtype=param_dtype,
                precision=precision,
                kernel_init=kernel_init,
                rngs=rngs,
            )

        self.embedding = table(vocab_size)
        self.positions = table(max_length)
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    attention_norm=_Norm(features, param_dtype),
                    query_key_value=dense(features, 3 * features),
                    out=dense(features, features),
                    network_norm=_Norm(features, param_dtype),
                    up=dense(features, 4 * features),
                    down=dense(4 * features, features),
                )
                for _ in range(num_layers)
            ]
        )
        self.norm = _Norm(features, param_dtype)
        self.head = nnx.Param(
            kernel_init(rngs.params(), (features, vocab_size), param_dtype)
        )
        self.num_heads = num_heads
        self.dtype = dtype or param_dtype
        self.precision = precision

    def __call__(
        self,
        tokens: jax.Array,
        *,
        accumulator: Accumulator = None,
        positions: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Maps tokens ``[N, T]`` to hidden states ``[N, T, D]``.

        Args:
          tokens: the tokens, the chosen sequences first where an accumulator is given.
          accumulator: zeros of shape ``[3, N / 2]``, or a dict of them by group:
            ``embedding``, ``positions``, ``block_0`` and so on, ``norm``, ``head``.
          positions: the position of each token; None counts from 0.
          where: which tokens are no padding, bool ``[N, T]``; the others may name any
            row of the table, even one that holds NaN, and give 0.

        Returns:
          The hidden states after the last norm.

        Raises:
          ValueError: if the shapes are not those above or ``T > max_length``.
        """
        if tokens.ndim != 2:
            raise ValueError(f"`tokens` must have shape (N, T), got {tokens.shape}.")
        x = entanglement.accumulator_embedding(
            tokens,
            self.embedding[...].astype(self.dtype),
            _of(accumulator, "embedding"),
            where=where,
        )
        x = entanglement.accumulator_positions(
            x,
            self.positions[...].astype(self.dtype),
            _of(accumulator, "positions"),
            positions=positions,
            where=where,
        )
        mask = jnp.tril(jnp.ones((1, *[tokens.shape[1]] * 2), jnp.bool_))
        if where is not None:
            mask = mask & where[:, None, :]
        for index, block in enumerate(self.blocks):
            x = self._block(block, x, mask, _of(accumulator, f"block_{index}"))
        x = self.norm(x, _of(accumulator, "norm"))
        return ops.masked_fill(x, None if where is None else where[..., None])

    def head_weight(self) -> jax.Array:
        """The weight of the head, ``[V, D]``."""
        return self.head[...].astype(self.dtype).T

    def token_log_probs(
        self,
        tokens: jax.Array,
        *,
        accumulator: Accumulator = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Log-probs ``[N, T - 1]`` of the tokens after the first, given those before.

        Args:
          tokens: prompts and answers, ``[N, T]``.
          accumulator: see :meth:`__call__`.
          positions: the position of each token; None counts from 0.
          mask: which tokens are no padding; None means all.
          where: which tokens belong to the answer; None means all that are no padding.

        Returns:
          The log-probs, at least float32; 0 outside the answer.
        """
        hidden = self(tokens, accumulator=accumulator, positions=positions, where=mask)
        counts = [w[:, 1:] for w in (where, mask) if w is not None]
        counts = jnp.logical_and(*counts) if len(counts) == 2 else (counts or [None])[0]
        logits = entanglement.accumulator_dense(
            hidden[:, :-1],
            self.head[...].astype(self.dtype),
            _of(accumulator, "head"),
            precision=self.precision,
            where=counts,
        )
        return ops.selected_log_probs(logits, tokens[:, 1:], where=counts)

    def log_probs(
        self,
        tokens: jax.Array,
        *,
        accumulator: Accumulator = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Log-probs ``[N]`` of whole answers; the arguments of `token_log_probs`."""
        return jnp.sum(
            self.token_log_probs(
                tokens,
                accumulator=accumulator,
                positions=positions,
                mask=mask,
                where=where,
            ),
            axis=-1,
        )

    def _block(
        self,
        block: nnx.Dict,
        x: jax.Array,
        mask: jax.Array,
        accumulator: jax.Array | None,
    ) -> jax.Array:
        batch, time, features = x.shape
        projected = block.query_key_value(
            block.attention_norm(x, accumulator), accumulator
        )
        heads = projected.reshape(batch, time, 3, self.num_heads, -1)
        query, key, value = (heads[:, :, i] for i in range(3))
        # JAX mixes dtypes inside its softmax.
        with jax.numpy_dtype_promotion("standard"):
            attended = jax.nn.dot_product_attention(
                query, key, value, mask=mask[:, None]
            )
        x = x + block.out(attended.reshape(batch, time, features), accumulator)
        hidden = block.up(block.network_norm(x, accumulator), accumulator)
        return x + block.down(jax.nn.gelu(hidden), accumulator)


class TokenGate(nnx.Module):
    r"""A gate for each token that sees only what comes before it.

    .. math:: \mu_t = \sigma(v^\top h_{t-1} + c)

    One gate for both answers of a pair, on hidden states of the *reference*: both
    share it on their common beginning and on the first token that differs. See
    :func:`jaxkit.entanglement.token_mask_loss`.

    Args:
      features: features of the hidden states.
      bias_init: start of ``c``; ``v`` starts at 0, so that all gates are open alike.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      rngs: the random streams of Flax; none is used.

    Raises:
      ValueError: if ``features`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> gate = jaxkit.nn.TokenGate(4, rngs=nnx.Rngs(0))
      >>> print(gate(jnp.ones((1, 2, 4))))
      [[0.880797 0.880797]]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025 (sparse token masks).
    """

    def __init__(
        self,
        features: int,
        *,
        bias_init: float = 2.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.at_least("features", features, 1)
        self.linear = nnx.Linear(
            features,
            1,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=nnx.initializers.zeros,
            bias_init=nnx.initializers.constant(bias_init),
            rngs=rngs,
        )

    def __call__(
        self, hidden: jax.Array, *, where: jax.Array | None = None
    ) -> jax.Array:
        """Maps the states before each token ``[..., T, D]`` to gates ``[..., T]``.

        Args:
          hidden: hidden states, each of which predicts the token it gates.
          where: which tokens count; the others may hold NaN and give 0.

        Returns:
          The gates, in (0, 1).
        """
        known = None if where is None else where[..., None]
        gates = jax.nn.sigmoid(self.linear(ops.masked_fill(hidden, known)))
        return ops.masked_fill(gates[..., 0], where)


class _Dense(nnx.Module):
    """A product and a bias, both counted."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        param_dtype: DTypeLike,
        precision: PrecisionLike,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_features, param_dtype))
        self.precision = precision

    def __call__(self, x: jax.Array, accumulator: jax.Array | None) -> jax.Array:
        product = entanglement.accumulator_dense(
            x, self.kernel[...].astype(x.dtype), accumulator, precision=self.precision
        )
        bias = self.bias[...].astype(x.dtype)
        return entanglement.accumulator_bias(product, bias, accumulator)


class _Norm(nnx.Module):
    """Standardized features with a scale and a bias, both counted."""

    def __init__(self, features: int, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))

    def __call__(self, x: jax.Array, accumulator: jax.Array | None) -> jax.Array:
        wide = x.astype(accumulation_dtype(x))
        centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
        x = (centered * jax.lax.rsqrt(variance + 1e-6)).astype(x.dtype)
        scale, bias = self.scale[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        scaled = entanglement.accumulator_scale(x, scale, accumulator)
        return entanglement.accumulator_bias(scaled, bias, accumulator)


def _of(accumulator: Accumulator, name: str) -> jax.Array | None:
    """The accumulator of a group; None leaves the group ordinary."""
    if isinstance(accumulator, Mapping):
        return accumulator.get(name)
    return accumulator
