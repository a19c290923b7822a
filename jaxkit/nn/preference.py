"""The policy of the preference-optimization system: a small causal transformer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import ops, preference
from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.nn._transformer import (
    CausalBlock,
    DecodingCache,
    Initializer,
    empty_cache,
)
from jaxkit.typing import ArrayLike, DTypeLike, Key

__all__ = ["PreferencePolicy"]

_default_init = nnx.initializers.lecun_normal()


class PreferencePolicy(nnx.Module):
    r"""A causal language model that returns hidden states, and their log-probs.

    .. math:: \log \pi(y \mid x) = \sum_{t \in y} \log
       \mathrm{softmax}(W h_{t-1})_{y_t}

    A transformer with norms before each part and learned positions. It never builds
    logits of the whole sequence: :meth:`log_probs` passes the hidden states and the
    head to :func:`jaxkit.preference.answer_log_probs`. There is no dropout, so that
    policy and reference score by one and the same program.

    Args:
      vocab_size: number of tokens ``V``.
      features: features ``D`` of the hidden states.
      num_layers: number of blocks.
      num_heads: number of heads; must divide ``features``.
      max_length: the longest sequence, and the number of learned positions.
      tie_head: whether the head is the table of embeddings.
      dtype: dtype of the computation; None takes that of the parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the projections and of the head.
      kernel_init: initializer of projections and, transposed, of the tables.
      rngs: the random streams of Flax; ``params`` is used.

    Raises:
      ValueError: if a size is less than 1 or the heads do not divide the features.

    Examples:
      The reference is a second copy of the parameters, kept as plain arrays: the
      variables of a module change in place, arrays do not.

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> policy = jaxkit.nn.PreferencePolicy(
      ...     11, 8, num_layers=1, num_heads=2, max_length=6, rngs=nnx.Rngs(0)
      ... )
      >>> graphdef, variables = nnx.split(policy, nnx.Param)
      >>> params = ref_params = nnx.to_pure_dict(variables)
      >>> def log_probs(params, tokens, where):
      ...     return nnx.merge(graphdef, params).log_probs(tokens, where=where)
      >>> tokens = jnp.array([[1, 2, 3, 4], [5, 6, 7, 0]])
      >>> answer = jnp.array([[False, False, True, True], [False, True, True, False]])
      >>> log_ratio = log_probs(params, tokens, answer) - log_probs(
      ...     ref_params, tokens, answer
      ... )
      >>> print(log_ratio)
      [0. 0.]

    References:
      Rafailov et al., *Direct Preference Optimization*, NeurIPS 2023, section 4 (the
      log-probability of a whole answer under a policy and a frozen copy).
    """

    def __init__(
        self,
        vocab_size: int,
        features: int,
        num_layers: int,
        num_heads: int,
        *,
        max_length: int,
        tie_head: bool = False,
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
            "max_length": max_length,
        }
        for name, size in sizes.items():
            checks.at_least(name, size, 1)

        def table(rows: int) -> nnx.Param[jax.Array]:
            # The kernel of a map from features to tokens: scaled by the features.
            kernel = kernel_init(rngs.params(), (features, rows), param_dtype)
            return nnx.Param(kernel.T)

        self.embedding = table(vocab_size)
        self.positions = table(max_length)
        self.head = None if tie_head else table(vocab_size)
        self.blocks = nnx.List(
            [
                CausalBlock(
                    features,
                    num_heads,
                    dtype=dtype,
                    param_dtype=param_dtype,
                    precision=precision,
                    kernel_init=kernel_init,
                    rngs=rngs,
                )
                for _ in range(num_layers)
            ]
        )
        self.norm = nnx.LayerNorm(
            features, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.num_heads = num_heads
        self.dtype = dtype or param_dtype
        self.precision = precision

    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to hidden states ``[B, T, D]``.

        Args:
          tokens: the tokens; what stands at padding is never read.
          positions: the position of each token; None counts the tokens that are no
            padding, so that padding on the left shifts nothing.
          where: which tokens are no padding, bool ``[B, T]``; padding gives 0.

        Returns:
          The hidden states after the last norm.

        Raises:
          ValueError: if the shapes are not those above or ``T > max_length``.
        """
        where = self._check(tokens, where)
        causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, jnp.bool_))
        mask = causal[None] & where[:, None, :]
        # Flax and JAX mix dtypes inside their norms and their softmax.
        with jax.numpy_dtype_promotion("standard"):
            x = self._embed(tokens, positions, where)
            for block in self.blocks:
                x, _ = block(x, mask)
            return ops.masked_fill(self.norm(x), where[..., None])

    def head_weight(self) -> jax.Array:
        """The weight of the head, ``[V, D]``."""
        weight = self.embedding if self.head is None else self.head
        return weight[...].astype(self.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Maps hidden states ``[..., D]`` to logits ``[..., V]``, at least float32."""
        return jnp.einsum(
            "...d,vd->...v",
            hidden,
            self.head_weight(),
            precision=self.precision,
            preferred_element_type=accumulation_dtype(hidden),
        )

    def token_log_probs(
        self,
        tokens: jax.Array,
        *,
        where: jax.Array | None = None,
        mask: jax.Array | None = None,
        **options: Any,
    ) -> jax.Array:
        """Log-probs ``[B, T - 1]`` of the tokens after the first, given those before.

        Args:
          tokens: prompts and answers, ``[B, T]``.
          where: which tokens belong to the answer; None means all.
          mask: which tokens are no padding, see
            :func:`jaxkit.preference.answer_token_log_probs`.
          options: keyword arguments of :func:`jaxkit.ops.linear_selected_log_probs`.

        Returns:
          The log-probs, at least float32; 0 outside the answer.
        """
        options = {"precision": self.precision, **options}
        return preference.answer_token_log_probs(
            self._hidden_fn,
            self.head_weight(),
            tokens,
            mask=mask,
            where=_all_true(tokens) if where is None else where,
            **options,
        )

    def log_probs(
        self,
        tokens: jax.Array,
        *,
        where: jax.Array | None = None,
        mask: jax.Array | None = None,
        **options: Any,
    ) -> jax.Array:
        """Log-probs ``[B]`` of whole answers; the arguments of `token_log_probs`."""
        options = {"precision": self.precision, **options}
        return preference.answer_log_probs(
            self._hidden_fn,
            self.head_weight(),
            tokens,
            mask=mask,
            where=_all_true(tokens) if where is None else where,
            **options,
        )

    def prefill(
        self, prompt: jax.Array, *, num_tokens: int, where: jax.Array | None = None
    ) -> tuple[DecodingCache, jax.Array]:
        """Reads prompts and makes the cache that `decode` continues from.

        Args:
          prompt: the prompts, ``[B, T]``, padded on either side.
          num_tokens: how many tokens may follow.
          where: which tokens are no padding; None means all.

        Returns:
          The cache and the logits ``[B, V]`` of the first token that follows.

        Raises:
          ValueError: if ``T + num_tokens > max_length``.
        """
        checks.at_least("num_tokens", num_tokens, 1)
        where = self._check(prompt, where, extra=num_tokens)
        batch, time = prompt.shape
        features = self.positions.shape[1] // self.num_heads
        cache = empty_cache(
            (len(self.blocks), batch, time + num_tokens, self.num_heads, features),
            self.dtype,
        )
        hidden, cache = self._extend(cache, prompt, where)
        # The last token of each row, wherever its padding stands.
        counts = jnp.cumsum(where, axis=1, dtype=jnp.int32)
        last = where & (counts == counts[:, -1:])
        hidden = jnp.sum(ops.masked_fill(hidden, last[..., None]), axis=1)
        return cache, self.logits(hidden)

    def decode(
        self, cache: DecodingCache, tokens: jax.Array
    ) -> tuple[DecodingCache, jax.Array]:
        """Appends one token ``[B]`` to each row and gives the next logits ``[B, V]``.

        A ``step_fn`` of :func:`jaxkit.preference.sample_tokens`.
        """
        tokens = tokens[:, None]
        hidden, cache = self._extend(cache, tokens, _all_true(tokens))
        return cache, self.logits(hidden[:, 0])

    def sample(
        self,
        key: Key,
        prompt: jax.Array,
        *,
        num_tokens: int,
        temperature: ArrayLike = 1.0,
        greedy: bool = False,
        end_token: int | None = None,
        where: jax.Array | None = None,
    ) -> preference.SampledTokens:
        """Samples an answer to each prompt ``[B, T]``.

        Args:
          key: the random key.
          prompt: the prompts, padded on either side.
          num_tokens: the length of the answers, static.
          temperature: divides the logits.
          greedy: whether to take the most likely token each time, static.
          end_token: the token that ends an answer.
          where: which tokens of the prompt are no padding; None means all.

        Returns:
          The answers of :func:`jaxkit.preference.sample_tokens`.
        """
        cache, logits = self.prefill(prompt, num_tokens=num_tokens, where=where)
        return preference.sample_tokens(
            key,
            self.decode,
            cache,
            logits,
            num_tokens=num_tokens,
            temperature=temperature,
            greedy=greedy,
            end_token=end_token,
        )

    def _hidden_fn(
        self, tokens: jax.Array, positions: jax.Array, mask: jax.Array
    ) -> jax.Array:
        return self(tokens, positions=positions, where=mask)

    def _extend(
        self, cache: DecodingCache, tokens: jax.Array, where: jax.Array
    ) -> tuple[jax.Array, DecodingCache]:
        """Reads tokens after those of a cache: their hidden states, a longer cache."""
        time, size = tokens.shape[1], cache.where.shape[1]
        before = jnp.sum(cache.where, axis=1, dtype=jnp.int32)
        known = jax.lax.dynamic_update_slice_in_dim(
            cache.where, where, cache.filled, axis=1
        )
        places = cache.filled + jnp.arange(time, dtype=jnp.int32)
        causal = jnp.arange(size)[None, :] <= places[:, None]
        mask = causal[None] & known[:, None, :]
        keys, values = [], []
        with jax.numpy_dtype_promotion("standard"):
            x = self._embed(tokens, before[:, None] + _count(where), where)
            for i, block in enumerate(self.blocks):
                memory = (cache.keys[i], cache.values[i])
                x, (key, value) = block(x, mask, memory, cache.filled)
                keys.append(key)
                values.append(value)
            hidden = ops.masked_fill(self.norm(x), where[..., None])
        filled = cache.filled + jnp.asarray(time, jnp.int32)
        return hidden, DecodingCache(jnp.stack(keys), jnp.stack(values), known, filled)

    def _embed(
        self, tokens: jax.Array, positions: jax.Array | None, where: jax.Array
    ) -> jax.Array:
        """Adds the tables; padding gives 0, whatever stands there."""
        positions = _count(where) if positions is None else positions
        x = self.embedding[...][jnp.where(where, tokens, 0)]
        x = x + self.positions[...][jnp.where(where, positions, 0)]
        return ops.masked_fill(x.astype(self.dtype), where[..., None])

    def _check(
        self, tokens: jax.Array, where: jax.Array | None, extra: int = 0
    ) -> jax.Array:
        if tokens.ndim != 2:
            raise ValueError(
                f"`tokens` must have shape (batch, time), got {tokens.shape}."
            )
        length, limit = tokens.shape[1] + extra, self.positions.shape[0]
        if length > limit:
            raise ValueError(
                f"Sequences of {length} tokens exceed `max_length={limit}`."
            )
        where = _all_true(tokens) if where is None else where
        checks.same_shape(tokens=tokens, where=where)
        return where


def _all_true(tokens: jax.Array) -> jax.Array:
    return jnp.ones(tokens.shape, jnp.bool_)


def _count(where: jax.Array) -> jax.Array:
    """Numbers the tokens that are no padding from 0."""
    return jnp.maximum(jnp.cumsum(where, axis=1, dtype=jnp.int32) - 1, 0)
