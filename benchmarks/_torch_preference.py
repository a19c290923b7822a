"""The logistic loss in eager PyTorch. Imported only where torch is."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks._torch import best_threads

__all__ = ["dpo"]


def dpo(pair: Sequence[jax.Array], beta: float, *, slopes: bool) -> Callable[[], Any]:
    """The loss with the label smoothing that trainers always compute, here 0."""
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.from_numpy(np.array(x)) for x in pair
    )

    def loss() -> torch.Tensor:
        ratios = (chosen - ref_chosen) - (rejected - ref_rejected)
        right = torch.nn.functional.logsigmoid(beta * ratios)
        wrong = torch.nn.functional.logsigmoid(-beta * ratios)
        return -(1.0 - 0.0) * right - 0.0 * wrong

    if not slopes:
        return best_threads(loss)
    chosen.requires_grad_()
    rejected.requires_grad_()

    def both() -> tuple[torch.Tensor, ...]:
        values = loss()
        gradients = torch.autograd.grad(values.sum(), [chosen, rejected])
        return values.detach(), *gradients

    return best_threads(both)
