"""How the figures of the examples look.

Figures are made without pyplot: no window, no global state, nothing to close.
"""

import base64
import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with any kind of color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(
    title: str,
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 4.4,
    height: float = 3.3,
    heights: tuple[float, ...] | None = None,
) -> tuple[Figure, np.ndarray]:
    """Makes a figure with a grid of clean axes.

    Args:
      title: the title above all panels.
      rows: the number of rows.
      columns: the number of columns.
      width: the width of a panel in inches.
      height: the mean height of a panel.
      heights: the relative heights of the rows; None for equal ones.

    Returns:
      The figure and its axes, shape `[rows, columns]`.
    """
    figure = Figure(
        figsize=(width * columns, height * rows + 0.5), layout="constrained"
    )
    figure.suptitle(title, fontsize=11, fontweight="bold")
    axes = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def label(ax: Axes, *, title: str, x: str, y: str) -> None:
    """Writes the title and the names of the axes."""
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8.5)
    ax.set_ylabel(y, fontsize=8.5)


def legend(ax: Axes, **options: Any) -> None:
    """Adds a small legend on a light ground."""
    ax.legend(fontsize=7.5, framealpha=0.9, edgecolor="0.85", **options)


def heat_map(
    ax: Axes, matrix: Any, *, title: str, split: bool = False, numbers: bool = False
) -> None:
    """Shows a matrix in diverging colors around 0, with its color bar.

    With `split`, lines separate the blocks of width `matrix.shape[-1] / 2`; with
    `numbers`, each cell shows its value.
    """
    values = np.asarray(matrix)
    image = ax.imshow(values, cmap="RdBu_r", norm=CenteredNorm(0.0))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    ax.set_title(title, fontsize=9)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    rows, columns = values.shape
    ax.set_xticks(range(columns), range(1, columns + 1))
    ax.set_yticks(range(rows), range(1, rows + 1))
    ax.tick_params(length=0, labelsize=7)
    if split:
        edge = columns // 2 - 0.5
        ax.axvline(edge, color="0.3", linewidth=0.8)
        if rows == columns:
            ax.axhline(edge, color="0.3", linewidth=0.8)
    if numbers:
        bound = np.abs(values).max()
        for (row, column), value in np.ndenumerate(values):
            color = "white" if abs(value) > 0.6 * bound else "0.2"
            style = {"color": color, "fontsize": 6.5, "ha": "center", "va": "center"}
            ax.text(column, row, f"{value:.3f}", **style)


def to_png(figure: Figure, *, dpi: int = 110) -> str:
    """Encodes a figure as a PNG in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return base64.b64encode(buffer.getvalue()).decode()
