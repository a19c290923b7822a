"""The same model in PyTorch, and its Gram in the two ways that PyTorch offers."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from benchmarks._torch import best_threads

__all__ = ["programs"]


def programs(
    params: Any, tokens: jax.Array, reference: jax.Array, num_heads: int
) -> dict[str, Callable[[], Any]]:
    """The gradient of the batch, a loop over pairs, and torch.func on all pairs."""
    weights = jax.tree.map(_tensor, params)
    leaves = jax.tree.leaves(weights)
    rebuild = jax.tree.structure(weights).unflatten
    tokens, reference = _tensor(tokens).long(), _tensor(reference).detach()
    chosen, rejected = tokens.chunk(2)

    def log_prob(leaves: Any, rows: torch.Tensor) -> torch.Tensor:
        return _log_probs(rebuild(leaves), rows, num_heads)

    def gradient() -> Any:
        a, b = log_prob(leaves, tokens).chunk(2)
        # The reference is the policy, with the chosen answers shifted.
        margin = 0.1 * (a - (a.detach() + reference) - b + b.detach())
        loss = -F.logsigmoid(margin).mean()
        return loss.detach(), torch.autograd.grad(loss, leaves)

    def loop() -> torch.Tensor:
        rows = []
        for pair in zip(chosen, rejected, strict=True):
            w, l = (
                torch.autograd.grad(log_prob(leaves, row[None])[0], leaves)
                for row in pair
            )
            rows.append(torch.stack([_dot(w, w), _dot(w, l), _dot(l, l)]))
        return torch.stack(rows, 1)

    per_example = vmap(
        grad(lambda leaves, row: log_prob(leaves, row[None])[0]), in_dims=(None, 0)
    )

    def at_once() -> torch.Tensor:
        detached = tuple(leaf.detach() for leaf in leaves)
        w, l = (
            [g.flatten(1) for g in per_example(detached, half)]
            for half in (chosen, rejected)
        )
        dots = lambda a, b: sum((x * y).sum(1) for x, y in zip(a, b, strict=True))
        return torch.stack([dots(w, w), dots(w, l), dots(l, l)])

    ways = {"torch gradient": gradient, "torch loop": loop, "torch.func": at_once}
    return {name: best_threads(run) for name, run in ways.items()}


def _tensor(array: jax.Array) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _dot(a: Any, b: Any) -> torch.Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def _log_probs(weights: Any, tokens: torch.Tensor, num_heads: int) -> torch.Tensor:
    length = tokens.shape[1]
    x = F.embedding(tokens, weights["embedding"]) + weights["positions"][:length]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for block in weights["blocks"].values():
        x = x + _attention(block, x, causal, num_heads)
        hidden = _dense(block["up"], _norm(block["network_norm"], x))
        x = x + _dense(block["down"], F.gelu(hidden, approximate="tanh"))
    logits = _norm(weights["norm"], x)[:, :-1] @ weights["head"]
    picked = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
    return picked[..., 0].sum(-1)


def _attention(
    block: Any, x: torch.Tensor, causal: torch.Tensor, num_heads: int
) -> torch.Tensor:
    batch, length, features = x.shape
    projected = _dense(block["query_key_value"], _norm(block["attention_norm"], x))
    heads = projected.reshape(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = heads[0], heads[1], heads[2]
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    attended = (weights @ value).transpose(1, 2).reshape(batch, length, features)
    return _dense(block["out"], attended)


def _dense(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return x @ layer["kernel"] + layer["bias"]


def _norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], layer["scale"], layer["bias"], eps=1e-6)
