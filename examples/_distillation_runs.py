"""What the distillation examples share: long runs, the clock, pictures and files."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import _common as common
import _plots as plots
import jax
import numpy as np
from _distillation_data import Data
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxkit import distillation

State = TypeVar("State", distillation.DistillState, distillation.TeacherState)
Parts = dict[str, Any]
"""Network, optimizers and settings: the keyword arguments that all functions share."""


class Clock:
    """Adds up the seconds of the processor that each phase takes."""

    def __init__(self) -> None:
        """Starts with no phase."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what the body takes to the phase."""
        start = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


def distill(
    state: distillation.DistillState,
    data: tuple[jax.Array, Any],
    parts: Parts,
    *,
    num_steps: int,
    batch_size: int,
    checkpoints: common.Checkpoints,
    block: int,
    label: str,
    **options: Any,
) -> tuple[distillation.DistillState, np.ndarray]:
    """Runs a distillation in blocks, with a checkpoint after each.

    Every draw follows from the key and the step in the state, so a resumed run goes on
    exactly.

    Args:
      state: the start.
      data: the real images and their targets.
      parts: network, optimizers and settings.
      num_steps: how many steps in all.
      batch_size: real images per step.
      checkpoints: where to store and whether to resume.
      block: steps between checkpoints.
      label: what the progress bar shows.
      options: more for :func:`jaxkit.distillation.run_distillation`.

    Returns:
      The final state and the outer loss before every step.
    """
    done = checkpoints.newest(num_steps)
    losses = np.zeros(done, np.float32)
    if done:
        packed, losses = checkpoints.restore(done, (pack(state), losses))
        state, losses = unpack(packed), np.asarray(losses)
    with common.progress(label, num_steps) as advance:
        advance(done)
        while done < num_steps:
            length = min(block - done % block, num_steps - done)
            state, metrics = distillation.run_distillation(
                state,
                *data,
                num_steps=length,
                batch_size=batch_size,
                **options,
                **parts,
            )
            if not metrics.finite.all():
                step = done + int(np.argmin(metrics.finite))
                raise FloatingPointError(f"{label}: not finite in step {step}.")
            losses = np.concatenate([losses, metrics.loss])
            done += length
            checkpoints.save(done, (pack(state), losses))
            advance(length)
    return state, losses


def pack(state: State) -> State:
    """Turns the typed key of a state into the numbers that files can hold."""
    return state._replace(key=jax.random.key_data(state.key))


def unpack(state: State) -> State:
    """Undoes :func:`pack`."""
    return state._replace(key=jax.random.wrap_key_data(state.key))


def as_set(
    synthetic: distillation.Synthetic, data: Data, **options: Any
) -> distillation.DistilledSet:
    """Joins synthetic pairs with the preprocessing that belongs to them."""
    return distillation.DistilledSet(
        images=synthetic.images,
        targets=synthetic.targets,
        mean=data.mean,
        std=data.std,
        pixel_scale=data.pixel_scale,
        **options,
    )


def save_set(
    config: common.BaseConfig, name: str, distilled: distillation.DistilledSet
) -> None:
    """Writes a distilled set, if an output folder was given."""
    if config.output is not None:
        config.output.mkdir(parents=True, exist_ok=True)
        distillation.save_distilled(config.output / f"{name}.npz", distilled)


def draw_pictures(
    title: str, rows: dict[str, distillation.DistilledSet], *, most: int = 10
) -> Figure:
    """Shows images of several sets, one set a row, at the scale of pixels."""
    widest = min(most, max(len(row.images) for row in rows.values()))
    figure, axes = plots.new_figure(
        title, len(rows), 1, width=9.0, height=9.0 / max(widest, 1) + 0.25
    )
    for ax, (name, distilled) in zip(axes[:, 0], rows.items(), strict=True):
        draw_row(ax, distilled, most=most)
        ax.set_title(name, fontsize=9, loc="left")
    return figure


def draw_row(ax: Axes, distilled: distillation.DistilledSet, *, most: int) -> None:
    """Draws images side by side, with a gap of one pixel."""
    images = np.asarray(distilled.denormalize(distilled.images[:most]))
    images = np.clip(images / float(distilled.pixel_scale), 0.0, 1.0)
    gap = np.ones((len(images), images.shape[1], 1, images.shape[3]))
    strip = np.concatenate([images, gap], axis=2).transpose(1, 0, 2, 3)
    strip = strip.reshape(images.shape[1], -1, images.shape[3])[:, :-1]
    gray = images.shape[3] == 1
    ax.imshow(strip[..., 0] if gray else strip, cmap="gray", vmin=0.0, vmax=1.0)
    ax.set_axis_off()
