"""The same formulas in eager PyTorch with autograd. Imported only where torch is."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

__all__ = [
    "ar_layer_value_and_grad",
    "ar_value_and_grad",
    "best_threads",
    "linear_attention",
]

Run = Callable[[], Any]
_THREADS = torch.get_num_threads()


def linear_attention(
    args: tuple[jax.Array, ...], cotangent: jax.Array | None, size: int
) -> dict[str, Run]:
    """Chunked linear attention as a loop over chunks and with all chunks at once."""
    backward = cotangent is not None
    tensors = [_tensor(a).requires_grad_(backward) for a in args]
    gradient = _tensor(cotangent) if backward else None

    def program(form: Callable) -> Run:
        def run() -> Any:
            if gradient is None:
                with torch.no_grad():
                    return form(*tensors, size=size)
            out = form(*tensors, size=size)
            return out.detach(), *torch.autograd.grad(out, tensors, gradient)

        return best_threads(run)

    return {
        "torch loop": program(_chunk_loop),
        "torch batched": program(_chunk_batched),
    }


def best_threads(run: Run) -> Run:
    """Gives the program one thread or all of them, whichever is faster.

    Small operations on many threads mostly wait, above all on a shared machine.
    """
    times = {}
    for threads in (1, _THREADS):
        torch.set_num_threads(threads)
        run()
        start = time.perf_counter()
        run()
        times[threads] = time.perf_counter() - start
    best = min(times, key=times.__getitem__)

    def run_best() -> Any:
        torch.set_num_threads(best)
        return run()

    return run_best


def _tensor(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _split(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Turns ``[T, H, F]`` into ``[n, H, C, F]``."""
    length, heads, features = tensor.shape
    return tensor.reshape(length // size, size, heads, features).transpose(1, 2)


def _join(chunks: torch.Tensor) -> torch.Tensor:
    count, heads, size, features = chunks.shape
    return chunks.transpose(1, 2).reshape(count * size, heads, features)


class _Chunks:
    """Queries, keys and values by chunk with their decay factors."""

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        log_decay: torch.Tensor | None,
        size: int,
    ):
        size = min(size, query.shape[0])
        query, key, self.value = (_split(a, size) for a in (query, key, value))
        scores = query @ key.transpose(-1, -2)
        if log_decay is None:
            self.scores = scores.tril()
            self.query, self.key, self.factor = query, key, None
            return
        total = _split(log_decay[..., None], size).cumsum(-2)
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        exponent = (total - total.transpose(-1, -2)).masked_fill(~causal, -torch.inf)
        self.scores = scores * exponent.exp()
        self.query = query * total.exp()
        self.key = key * (total[..., -1:, :] - total).exp()
        self.factor = total[..., -1:, :].exp()


def _chunk_loop(*args: torch.Tensor, size: int) -> torch.Tensor:
    x = _Chunks(*args, *([None] * (4 - len(args))), size)
    state = x.value.new_zeros(x.value.shape[1], x.key.shape[-1], x.value.shape[-1])
    # Unbound once: the gradient of indexing is as large as what is indexed.
    rows = (a.unbind() for a in (x.query, x.key, x.value, x.scores))
    factors = [None] * len(x.value) if x.factor is None else x.factor.unbind()
    out = []
    for query, key, value, scores, factor in zip(*rows, factors, strict=True):
        out.append(query @ state + scores @ value)
        if factor is not None:
            state = factor * state
        state = state + key.transpose(-1, -2) @ value
    return _join(torch.stack(out))


def _chunk_batched(*args: torch.Tensor, size: int) -> torch.Tensor:
    x = _Chunks(*args, *([None] * (4 - len(args))), size)
    updates = x.key.transpose(-1, -2) @ x.value
    if x.factor is None:
        before = updates.cumsum(0) - updates
    else:
        state, states = torch.zeros_like(updates[0]), []
        for update, factor in zip(updates, x.factor, strict=True):
            states.append(state)
            state = factor * state + update
        before = torch.stack(states)
    return _join(x.query @ before + x.scores @ x.value)


def ar_value_and_grad(kq: jax.Array, pv: jax.Array, x: jax.Array) -> Run:
    """The mean loss of the model, one position after the other, and its gradient."""
    kq, pv = (_tensor(a).requires_grad_() for a in (kq, pv))
    x = _tensor(x)
    embedded = torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)], -1)

    def run() -> Any:
        query, value = kq.to(x.dtype), pv.to(x.dtype)
        loss = 0.0
        for t in range(2, x.shape[1]):
            seen = embedded[:, :t].transpose(1, 2)
            gram = seen @ seen.mH / (t - 1)
            read = gram @ (query @ embedded[:, t - 1, :, None])
            error = (value @ read)[..., 0] - x[:, t]
            loss = loss + 0.5 * (error.real**2 + error.imag**2).sum(-1).mean()
        return loss.detach(), *torch.autograd.grad(loss, [kq, pv])

    return best_threads(run)


def ar_layer_value_and_grad(kq: jax.Array, pv: jax.Array, x: jax.Array) -> Run:
    """The same by the definition: the whole layer on every prefix, its last column."""
    kq, pv = (_tensor(a).requires_grad_() for a in (kq, pv))
    x = _tensor(x)
    embedded = torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)], -1)
    embedded = embedded.transpose(1, 2)

    def run() -> Any:
        total, gradients = 0.0, [torch.zeros_like(kq), torch.zeros_like(pv)]
        for t in range(2, x.shape[1]):
            seen = embedded[:, :, :t]
            scores = seen.mH @ (kq.to(x.dtype) @ seen) / (t - 1)
            out = pv.to(x.dtype) @ seen @ scores
            error = out[:, :, -1] - x[:, t]
            loss = 0.5 * (error.real**2 + error.imag**2).sum(-1).mean()
            # One position at a time: the scores of all would not fit in memory.
            gradients = [
                g + new
                for g, new in zip(
                    gradients, torch.autograd.grad(loss, [kq, pv]), strict=True
                )
            ]
            total += loss.detach()
        return total, *gradients

    return best_threads(run)
