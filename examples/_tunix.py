"""Models of Tunix (Gemma, Llama, Qwen) as `jaxkit.preference` calls a model.

Install with `pip install -e '.[tunix]'`. Nothing here downloads weights: build the
model and load a checkpoint as Tunix documents, or take the random ones of `TINY`.

    graphdef, params = nnx.split(model)

    def log_prob_fn(params, tokens, mask, where):
        model = nnx.merge(graphdef, params)
        return tunix.log_probs(model, tokens, mask=mask, where=where)

The reference is `nnx.to_pure_dict(params)` of the start, kept aside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkit import preference


class Head(NamedTuple):
    """The last layer of a model.

    Attributes:
      weight: `[V, D]` if tied to the embedding, else `[D, V]`.
      options: what `jaxkit.ops.linear_selected_log_probs` must know about it.
    """

    weight: jax.Array
    options: dict[str, Any]


def hidden_fn(model: Any) -> preference.HiddenFn:
    """Gives the hidden states after the last norm, without the logits.

    The models of Tunix 0.1.7 return logits only, so their parts are called one by
    one. Gemma 1 to 3, Llama 3 and Qwen 3 share the call of a layer.
    """
    missing = [
        name
        for name in ("embedder", "layers", "final_norm")
        if not hasattr(model, name)
    ]
    if missing or type(model).__name__ in ("Qwen2", "Gemma4"):
        raise TypeError(
            f"`model` must be a Gemma 1 to 3, Llama 3 or Qwen 3 of Tunix, "
            f"got {type(model).__name__}."
        )

    def run(tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, jnp.bool_))
        attended = causal[None] & mask[:, None, :]
        x = model.embedder.encode(tokens)
        for layer in model.layers:
            _, x = layer(x, positions, None, attended)
        return model.final_norm(x)

    return run


def head(model: Any) -> Head:
    """Finds the weight of the head and the soft cap of the logits, as Gemma 2 has."""
    softcap = getattr(model, "final_logits_softcap", None)
    options: dict[str, Any] = {"logit_softcap": softcap}
    if hasattr(model, "lm_head"):
        return Head(model.lm_head.w[...], {**options, "vocab_axis": 1})
    return Head(model.embedder.input_embedding[...], options)


def log_probs(
    model: Any, tokens: jax.Array, *, where: jax.Array, **options: Any
) -> jax.Array:
    """Scores answers; the arguments of `jaxkit.preference.answer_log_probs`."""
    last = head(model)
    return preference.answer_log_probs(
        hidden_fn(model), last.weight, tokens, where=where, **last.options, **options
    )


def tiny_gemma(rngs: nnx.Rngs) -> Any:
    """A Gemma 2 of 2 layers with random weights: tied head, capped logits."""
    from tunix.models.gemma import model as gemma

    config = gemma.ModelConfig(
        num_layers=2,
        num_embed=40,
        embed_dim=16,
        hidden_dim=32,
        num_heads=2,
        head_dim=8,
        num_kv_heads=1,
        final_logit_softcap=3.0,
        attn_logits_soft_cap=50.0,
        sliding_window_size=4,
        attention_types=(
            gemma.AttentionType.LOCAL_SLIDING,
            gemma.AttentionType.GLOBAL,
        ),
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
    )
    return gemma.Gemma(config, rngs=rngs)


def tiny_llama(rngs: nnx.Rngs) -> Any:
    """A Llama 3 of 2 layers with random weights and a head of its own."""
    from tunix.models.llama3 import model as llama

    config = llama.ModelConfig(
        num_layers=2,
        vocab_size=40,
        embed_dim=16,
        hidden_dim=32,
        num_heads=2,
        head_dim=8,
        num_kv_heads=1,
        rope_theta=10_000,
        norm_eps=1e-5,
    )
    return llama.Llama3(config, rngs=rngs)


def tiny_qwen(rngs: nnx.Rngs) -> Any:
    """A Qwen 3 of 2 layers with random weights and a tied head."""
    from tunix.models.qwen3 import model as qwen

    config = qwen.ModelConfig(
        num_layers=2,
        vocab_size=40,
        embed_dim=16,
        hidden_dim=32,
        num_heads=2,
        head_dim=8,
        num_kv_heads=1,
        rope_theta=10_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    return qwen.Qwen3(config, rngs=rngs)


TINY: dict[str, Callable[[nnx.Rngs], Any]] = {
    "gemma": tiny_gemma,
    "llama": tiny_llama,
    "qwen": tiny_qwen,
}
