"""Kernels of infinite networks: what tiles cost, and the memory they save."""

import functools
from typing import Any

import jax

from benchmarks._harness import Case, Program, Work, jax_program
from benchmarks._peers import within
from jaxkit import distillation

__all__ = ["kernel_cases"]

SIZES = {
    # synthetic and real examples, side of an image, tiles
    "small": ((128, 1024, 28, (64, 128)), (32, 64, 8, (8, 16))),
    "full": ((1000, 5000, 28, (256, 1000)), (64, 256, 8, (8, 16))),
    "accelerator": ((1000, 5000, 32, (256, 1000)), (256, 1024, 8, (32, 64))),
}
"""One dense network and one convolutional with pooling per preset."""
LAYERS = ("conv", "relu", "avg_pool", "conv", "relu", "global_avg_pool", "dense")


def kernel_cases(preset: str, max_length: int | None) -> list[Case]:
    """Both kernels of all pairs; the first program computes them at once."""
    dense, conv = SIZES[preset]
    cases = []
    for name, (num_s, num_t, side, tiles) in (("dense", dense), ("conv", conv)):
        (count,) = within((num_s,), max_length)
        (others,) = within((num_t,), max_length)
        cases.append(
            Case(
                f"{name} NTK, {side}x{side}, {count} x {others}",
                functools.partial(_programs, name, count, others, side, tiles),
            )
        )
    return cases


def _programs(
    name: str, num_s: int, num_t: int, side: int, tiles: tuple[int, ...]
) -> list[Program]:
    keys = jax.random.split(jax.random.key(0), 2)
    x, y = (
        jax.random.normal(key, (count, side, side, 1))
        for key, count in zip(keys, (num_s, num_t), strict=True)
    )
    kernel: Any = functools.partial(distillation.conv_nngp_ntk, layers=LAYERS)
    pairs, pixels = num_s * num_t, side**2
    # Six additions and a ReLU, some ten operations, on two kernels of all pixel pairs.
    flops = 2.0 * pairs * (16 * pixels**2 + 16 * (pixels / 4) ** 2)
    if name == "dense":
        x, y = x.reshape(num_s, -1), y.reshape(num_t, -1)
        kernel, flops = distillation.fc_nngp_ntk, 2.0 * pairs * (pixels + 10)
    work = Work(flops, 4.0 * (x.size + y.size + 2 * pairs))
    return [
        jax_program(
            "all at once" if tile is None else f"tiles of {tile}",
            functools.partial(kernel, tile_size=tile),
            x,
            y,
            work=work,
        )
        for tile in (None, *tiles)
    ]
