"""SFace and ArcFace in eager PyTorch, and those of pytorch-metric-learning.

Imported only where torch is installed.
"""

from collections.abc import Callable

import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks._peers import optional_module
from benchmarks._torch import best_threads
from benchmarks._torch_log_probs import Run

__all__ = ["library_programs", "plain_programs"]

SCALE, MARGIN = 64.0, 0.5
SHARPNESS, INTRA, INTER = 80.0, 0.80, 1.23


def plain_programs(x: jax.Array, w: jax.Array, labels: jax.Array) -> dict[str, Run]:
    """Mean loss and gradients, straight from the formulas, by the names of the losses."""
    return {
        "sface": _program(_sface, x, w, labels),
        "arcface": _program(_arcface, x, w, labels),
    }


def library_programs(x: jax.Array, w: jax.Array, labels: jax.Array) -> dict[str, Run]:
    """The same of pytorch-metric-learning; none where it is not installed."""
    if not optional_module("pytorch_metric_learning"):
        return {}
    losses = optional_module("pytorch_metric_learning.losses")
    sizes = {"num_classes": w.shape[0], "embedding_size": w.shape[1], "scale": SCALE}
    made = {
        "arcface": losses.ArcFaceLoss(margin=float(np.degrees(MARGIN)), **sizes),
        "cosface": losses.CosFaceLoss(margin=0.35, **sizes),
    }
    return {name: _module(loss, x, w, labels) for name, loss in made.items()}


def _tensors(*arrays: jax.Array) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(a)).requires_grad_() for a in arrays]


def _program(form: Callable, x: jax.Array, w: jax.Array, labels: jax.Array) -> Run:
    inputs = _tensors(x, w)
    y = torch.from_numpy(np.array(labels)).long()

    def run() -> tuple[torch.Tensor, ...]:
        loss = form(*inputs, y)
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    return best_threads(run)


def _module(
    loss: torch.nn.Module, x: jax.Array, w: jax.Array, labels: jax.Array
) -> Run:
    (embeddings,) = _tensors(x)
    y = torch.from_numpy(np.array(labels)).long()
    # It keeps one column for each class.
    loss.W = torch.nn.Parameter(torch.from_numpy(np.array(w).T.copy()))

    def run() -> tuple[torch.Tensor, ...]:
        value = loss(embeddings, y)
        dx, dw = torch.autograd.grad(value, (embeddings, loss.W))
        return value.detach(), dx, dw.T

    return best_threads(run)


def _cosines(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x) @ functional.normalize(w).T


def _sface(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    cos = _cosines(x, w)
    with torch.no_grad():
        theta = torch.arccos(cos.clamp(-1, 1))
        slope = SCALE * torch.sigmoid(-SHARPNESS * (theta - INTER))
        own = theta.gather(1, y[:, None])
        slope.scatter_(1, y[:, None], -SCALE * torch.sigmoid(SHARPNESS * (own - INTRA)))
    return (slope * cos).sum(1).mean()


def _arcface(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    cos = _cosines(x, w)
    own = cos.gather(1, y[:, None])
    sin = torch.sqrt((1 - own**2).clamp(min=1e-12))
    target = own * np.cos(MARGIN) - sin * np.sin(MARGIN)
    target = torch.where(own > -np.cos(MARGIN), target, own - MARGIN * np.sin(MARGIN))
    return functional.cross_entropy(SCALE * cos.scatter(1, y[:, None], target), y)
