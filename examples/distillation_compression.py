"""How many real images a distilled one is worth.

Paper: Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
2024. New networks are trained on sets of different sizes, and their error to the
teacher on held-out images is drawn against the size: random images, k-means in the
space of the teacher, and KRR-ST that starts from it; the dashed line has seen all
images. Random images are followed to larger sizes, until they reach the errors of the
distilled sets: the ratio of the two sizes is the compression.

How to read the numbers: "worth" interpolates the curve of random images on logarithmic
axes; a set that no random one reaches is marked by the largest size. The compression
shrinks as sets grow, from three at ten digits to little more than one at a hundred.
Every network takes the same number of steps, so the line of all images is no bound: a
few hundred images seen more often can end below it.

Command: python examples/distillation_compression.py --output outputs/compression
Time: about three minutes on two CPU cores, compilation included.
"""

import dataclasses
from typing import Any

import _common as common
import _distillation_lab as lab_
import _plots as plots
import jax
import numpy as np
from _distillation_lab import Lab
from matplotlib.figure import Figure

from jaxkit import distillation

RANDOM, DISTILLED = "random", "KRR-ST from k-means"
SUBSETS = (RANDOM, "k-means, teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(lab_.LabConfig):
    """The options."""

    sizes: tuple[int, ...] = common.option(
        (10, 20, 50, 100), "images to distill into", paper=(100, 200, 500, 1000)
    )
    more_sizes: tuple[int, ...] = common.option(
        (200, 400), "sizes of random sets alone", paper=(2000, 5000, 10_000)
    )
    num_seeds: int = common.option(2, "sets of each kind and size", paper=3)


def head_error(lab: Lab, synthetic: distillation.Synthetic, seed: int) -> float:
    """Trains one network on a set and measures its output on held-out images."""
    model = lab_.train_on(lab, synthetic, jax.random.key(10_000 + seed))
    return lab_.representation_errors(lab, synthetic, model)[0]


def measure(lab: Lab, config: Config, name: str, size: int) -> np.ndarray:
    """Gives the error of every set of one kind and size, mean over networks."""
    values = []
    for seed in range(config.num_seeds):
        _, synthetic, _ = lab_.make_set(lab, name, size, seed)
        each = [head_error(lab, synthetic, s) for s in range(config.num_evaluations)]
        values.append(np.mean(each))
    return np.array(values)


def run(config: Config) -> tuple[Lab, dict[str, dict[int, np.ndarray]], float]:
    """Measures all sets, and the error after training on all images."""
    lab = lab_.make_lab(config)
    sizes = [size for size in config.sizes if size <= len(lab.data.images)]
    more = [size for size in config.more_sizes if size <= len(lab.data.images)]
    errors = {
        name: {size: measure(lab, config, name, size) for size in sizes}
        for name in (*SUBSETS, DISTILLED)
    }
    # Large sets in batches: a step costs what the batch costs.
    batch = config.pretrain_batch or config.batch_size
    large = lab._replace(config=dataclasses.replace(config, pretrain_batch=batch))
    errors[RANDOM] |= {size: measure(large, config, RANDOM, size) for size in more}
    every = distillation.Synthetic(lab.data.images, lab.targets)
    seeds = range(config.num_evaluations)
    full = float(np.mean([head_error(large, every, seed) for seed in seeds]))
    return lab, errors, full


def worth(curve: dict[int, np.ndarray], error: float) -> tuple[float, bool]:
    """Finds how many random images give an error.

    Args:
      curve: errors of random sets by size.
      error: the error to reach.

    Returns:
      The size, and whether a random set reached the error at all.
    """
    sizes = np.array(sorted(curve))
    # Larger sets are never worse but for noise, which must not turn the curve back.
    means = np.minimum.accumulate([curve[size].mean() for size in sizes])
    if error < means[-1]:
        return float(sizes[-1]), False
    logs = np.interp(-np.log(error), -np.log(means), np.log(sizes))
    return float(np.exp(logs)), True


def report(
    config: Config, errors: dict[str, dict[int, np.ndarray]], full: float, total: int
) -> dict[str, float]:
    """Prints the errors and the compression, and returns every number."""
    names = (*SUBSETS, DISTILLED)
    rows, measured = [], {"all images/error": full}
    for size in sorted(errors[RANDOM]):
        row: list[Any] = [size]
        for name in names:
            values = errors[name].get(size)
            row.append(None if values is None else float(values.mean()))
            if values is not None:
                measured[f"{name}/{size}/error"] = float(values.mean())
                for seed, value in enumerate(values):
                    measured[f"{name}/{size}/seed {seed}"] = float(value)
        text = factor = None
        if size in errors[DISTILLED]:
            count, reached = worth(errors[RANDOM], errors[DISTILLED][size].mean())
            factor = count / size
            text = f"{'' if reached else 'over '}{count:.0f}"
            measured[f"{DISTILLED}/{size}/worth"] = count
            measured[f"{DISTILLED}/{size}/reached"] = float(reached)
        rows.append([*row, text, factor])
    rows.append([total, full, None, None, None, None])
    common.print_table(
        f"{config.dataset}: head error on held-out images against the size of the set",
        ["images", *names, "worth, random", "compression"],
        rows,
        caption=f"means of {config.num_seeds} sets and {config.num_evaluations} networks "
        "each; a fraction of the variance of the teacher; the last row has all images",
    )
    return measured


def draw(errors: dict[str, dict[int, np.ndarray]], full: float) -> Figure:
    """Draws error against size."""
    figure, axes = plots.new_figure("What a distilled image is worth", width=5.6)
    ax = axes[0, 0]
    for (name, curve), color in zip(errors.items(), plots.COLORS, strict=False):
        sizes = np.array(sorted(curve))
        values = np.stack([curve[size] for size in sizes])
        ax.plot(sizes, values.mean(1), "-", color=color, label=name)
        ax.plot(sizes, values, "o", color=color, markersize=3)
    ax.axhline(full, color="0.3", linestyle="--", label="all images")
    ax.set_xscale("log")
    ax.set_yscale("log")
    plots.label(ax, title="", x="images in the set", y="held-out head error")
    plots.legend(ax)
    return figure


def main(config: Config) -> dict[str, float]:
    """Measures all sets and returns every number."""
    lab, errors, full = run(config)
    measured = report(config, errors, full, len(lab.data.images))
    common.save_json(config, "distillation_compression", measured)
    if config.output is not None:
        common.save_figure(config, "distillation_compression", draw(errors, full))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
