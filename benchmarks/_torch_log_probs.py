"""Log-probabilities of tokens in eager PyTorch. Imported only where torch is."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks._peers import optional_module

__all__ = ["Run", "log_prob_programs", "peak_bytes"]

Run = Callable[[], Any]
_CHUNK = 32768
"""Columns of a tile of TRL 1.16; its tiles take 4096 tokens."""
_TOKENS = 4096


def log_prob_programs(
    hidden: jax.Array, weight: jax.Array, labels: jax.Array, cotangent: jax.Array
) -> dict[str, Run]:
    """Values and gradients with all logits and with the tiles of TRL.

    Where TRL is not installed its place is taken by a rewrite of its algorithm.
    """
    h, w = (torch.from_numpy(np.array(a)).requires_grad_() for a in (hidden, weight))
    y = torch.from_numpy(np.array(labels)).long()
    gradient = torch.from_numpy(np.array(cotangent))
    chunked = {"torch, tiles as in TRL": lambda: _Chunked.apply(h, w, y)}
    if optional_module("trl"):
        function = optional_module("trl.kernels").ChunkedLogProbFunction
        chunked = {
            "TRL tiles": lambda: function.apply(
                h, w, None, y, 1.0, _CHUNK, None, 1.0, ()
            )[0]
        }

    def program(form: Callable[[], torch.Tensor]) -> Run:
        def run() -> Any:
            out = form()
            return out.detach(), *torch.autograd.grad(out, (h, w), gradient)

        return run

    forms = {"torch log_softmax": lambda: _dense(h, w, y), **chunked}
    return {name: program(form) for name, form in forms.items()}


def peak_bytes(run: Run) -> int:
    """Most bytes allocated at a time, less those of the results.

    Summed from the allocations and releases that the profiler of PyTorch records.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        results = run()
    events = profile.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]"]
    memory.sort(key=lambda event: event.start_ns())
    alive = np.cumsum([event.nbytes() for event in memory])
    kept = sum(tensor.nbytes for tensor in results)
    return int(alive.max()) - kept


def _dense(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    log_probs = torch.log_softmax(hidden @ weight.T, -1)
    return log_probs.gather(-1, labels[:, None])[:, 0]


class _Chunked(torch.autograd.Function):
    """Tiles of tokens and vocabulary, computed again in the backward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, labels):
        out, normalizers = [], []
        for h, y in zip(hidden.split(_TOKENS), labels.split(_TOKENS), strict=True):
            largest = torch.full(y.shape, -torch.inf)
            total, target = torch.zeros(y.shape), torch.zeros(y.shape)
            for start, w in _tiles(weight):
                logits = h @ w.T
                new = torch.maximum(largest, logits.amax(-1))
                total *= torch.exp(largest - new)
                total += torch.exp(logits - new[:, None]).sum(-1)
                largest = new
                column = (y - start).clamp(0, len(w) - 1)
                found = logits.gather(-1, column[:, None])[:, 0]
                target = torch.where(column == y - start, found, target)
            normalizers.append(largest + total.log())
            out.append(target - normalizers[-1])
        ctx.save_for_backward(hidden, weight, labels, torch.cat(normalizers))
        return torch.cat(out)

    @staticmethod
    def backward(ctx, cotangent):
        hidden, weight, labels, normalizers = ctx.saved_tensors
        d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        arrays = (hidden, labels, normalizers, cotangent, d_hidden)
        for parts in zip(*(a.split(_TOKENS) for a in arrays), strict=True):
            h, y, normalizer, g, d_h = parts
            for start, w in _tiles(weight):
                logits = h @ w.T
                columns = torch.arange(start, start + len(w))
                slope = (columns == y[:, None]).float()
                slope -= torch.exp(logits - normalizer[:, None])
                slope *= g[:, None]
                d_h += slope @ w
                d_weight[start : start + len(w)] += slope.T @ h
        return d_hidden, d_weight, None


def _tiles(weight: torch.Tensor) -> Any:
    return (
        (start, weight[start : start + _CHUNK])
        for start in range(0, len(weight), _CHUNK)
    )
