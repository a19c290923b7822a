"""Answers that a policy writes, and its divergence from the reference on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _preference_data import PairData
from flax import nnx

Params = Any


class Samples(NamedTuple):
    """Answers that a policy wrote, and how far it is from its reference."""

    prompts: list[np.ndarray]
    answers: list[np.ndarray]
    kl: float
    standard_error: float


def sample_answers(
    graphdef: nnx.GraphDef,
    params: Params,
    ref_params: Params,
    data: PairData,
    *,
    limit: int,
    prompt: int,
    end: int,
    key: jax.Array,
) -> Samples:
    """Samples answers to prompts and estimates the divergence on them.

    The mean of log pi - log ref over samples of pi estimates KL(pi || ref) without
    bias; over the answers of a data set it does not.
    """
    firsts = [batch for batch in data.in_order(1) if batch.valid[0]][:limit]
    length = params["positions"].shape[0]
    if not firsts:
        return Samples([], [], float("nan"), float("nan"))
    # Padding stands on the left, so that every answer begins at the same place and
    # its first token follows the last one of the prompt.
    tokens = np.zeros((len(firsts), prompt), np.int32)
    seen = np.zeros(tokens.shape, bool)
    for i, batch in enumerate(firsts):
        size = int(np.argmax(batch.where[0, 0]))
        tokens[i, prompt - size :] = batch.tokens[0, 0, :size]
        seen[i, prompt - size :] = True

    @jax.jit
    def run(params: Params, ref_params: Params, key: jax.Array) -> tuple[Any, Any]:
        policy, reference = (nnx.merge(graphdef, some) for some in (params, ref_params))
        answers = policy.sample(
            key, tokens, num_tokens=length - prompt, end_token=end, where=seen
        )
        rows = jnp.concatenate([tokens, answers.tokens.astype(tokens.dtype)], axis=1)
        mask = jnp.concatenate([seen, answers.where], axis=1)
        where = mask & (jnp.arange(length) >= prompt)
        ratio = policy.log_probs(rows, where=where, mask=mask) - reference.log_probs(
            rows, where=where, mask=mask
        )
        return answers, ratio

    answers, ratio = jax.device_get(run(params, ref_params, key))
    return Samples(
        [row[mask] for row, mask in zip(tokens, seen, strict=True)],
        [row[mask] for row, mask in zip(answers.tokens, answers.where, strict=True)],
        float(ratio.mean()),
        float(ratio.std(ddof=1) / np.sqrt(len(ratio))) if len(ratio) > 1 else 0.0,
    )
