"""One step of distillation in eager PyTorch, as its users write it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._torch import best_threads

__all__ = ["distill_step"]


class _ConvNet(torch.nn.Module):
    """Blocks of convolution, batch norm, ReLU and average pool, then a linear map."""

    def __init__(self, params: Any, stats: Any):
        super().__init__()
        blocks = len(params["convs"])
        self.convs, self.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
        for index in range(blocks):
            kernel = _tensor(params["convs"][index]["kernel"]).permute(3, 2, 0, 1)
            outputs, inputs = kernel.shape[:2]
            conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
            norm = torch.nn.BatchNorm2d(outputs)
            _set(conv.weight, kernel)
            _set(conv.bias, params["convs"][index]["bias"])
            _set(norm.weight, params["norms"][index]["scale"])
            _set(norm.bias, params["norms"][index]["bias"])
            _set(norm.running_mean, stats["norms"][index]["mean"])
            _set(norm.running_var, stats["norms"][index]["var"])
            self.convs.append(conv)
            self.norms.append(norm)
        kernel = _tensor(params["linear"]["kernel"])
        self.linear = torch.nn.Linear(*kernel.shape)
        _set(self.linear.weight, kernel.T)
        _set(self.linear.bias, params["linear"]["bias"])

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.avg_pool2d(torch.relu(norm(conv(x))), 2)
        # Features in the order of images with channels last.
        return x.permute(0, 2, 3, 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embed(x))


def distill_step(
    model: Any, synthetic: Any, real: Any, inner: tuple[float, float, float]
) -> Callable[[], Any]:
    """Gives a program of one step: outer gradient, AdamW, one inner step of SGD."""
    rate, momentum, decay = inner
    net = _ConvNet(model.params, model.batch_stats)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    images, targets = (_tensor(x) for x in real)
    images = images.permute(0, 3, 1, 2).contiguous()
    first = [_tensor(synthetic.images).permute(0, 3, 1, 2).contiguous()]
    first.append(_tensor(synthetic.targets))
    learned = [x.clone().requires_grad_() for x in first]
    outer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=rate, momentum=momentum, weight_decay=decay
    )
    ones = lambda x: torch.cat([x, x.new_ones(len(x), 1)], 1)

    def run() -> Any:
        # From the same start each time, as the program in JAX.
        net.load_state_dict(start)
        with torch.no_grad():
            for value, old in zip(learned, first, strict=True):
                value.copy_(old)
        net.eval()
        with torch.no_grad():
            feat_t = ones(net.embed(images))
        feat_s = ones(net.embed(learned[0]))
        gram = feat_s @ feat_s.T
        ridge = 1e-6 * torch.trace(gram.detach())
        shifted = gram + ridge * torch.eye(len(gram))
        alpha = torch.cholesky_solve(learned[1], torch.linalg.cholesky(shifted))
        loss = F.mse_loss(feat_t @ (feat_s.T @ alpha), targets)
        outer.zero_grad()
        loss.backward()
        norms = [x.grad.norm() for x in learned]
        outer.step()
        net.train()
        optimizer.zero_grad()
        F.mse_loss(net(learned[0].detach()), learned[1].detach()).backward()
        optimizer.step()
        return loss.detach(), *norms

    return best_threads(run)


def _tensor(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _set(parameter: torch.Tensor, value: Any) -> None:
    value = value if isinstance(value, torch.Tensor) else _tensor(value)
    with torch.no_grad():
        parameter.copy_(value)
