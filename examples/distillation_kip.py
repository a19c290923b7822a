"""Ten images that stand for a data set: kernel inducing points (KIP).

Paper: Nguyen et al., *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021:
the images of a small set are moved so that kernel ridge regression on them, with the
neural tangent kernel of a network of one hidden layer, predicts the labels of the real
images. Labels stay fixed (or are learned, with --learn-targets).

The table compares, on images that no step saw, a random subset with as many images of
each class and the same subset after distillation. The pictures show both.

How to read the numbers: the subset is the start of the distillation, so the gain is
what moving pixels is worth to this kernel. It says nothing about networks that are not
near their kernel.

Command: python examples/distillation_kip.py --output outputs/kip
Time: under half a minute on two CPU cores, compilation included. For CIFAR-10 add
`--dataset cifar-npz --data FILE.npz --count 20000 --batch-size 2000`.
"""

import dataclasses
from typing import Literal, NamedTuple

import _common as common
import _distillation_data as data_
import _distillation_runs as runs
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _distillation_data import Data
from matplotlib.figure import Figure

from jaxkit import distillation

PIXELS = ("random subset", "distilled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    dataset: Literal["digits", "cifar-npz", "stand-in"] = common.option(
        "digits", "which images", paper="cifar-npz"
    )
    data: str = common.option("", "the file of cifar-npz")
    size: int = common.option(32, "side of the images, digits excepted")
    count: int = common.option(0, "training images to keep, 0 for all")
    sizes: tuple[int, ...] = common.option((10, 100), "images to distill into")
    num_steps: int = common.option(200, "steps", paper=300)
    batch_size: int = common.option(500, "real images per step", paper=5000)
    learning_rate: float = common.option(4e-2, "step size of Adam")
    num_seeds: int = common.option(3, "distillations per size")
    learn_targets: bool = common.option(False, "move the labels, too")
    block: int = common.option(100, "steps between checkpoints")


def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    """The tangent kernel of one hidden layer of ReLUs."""
    flat = lambda images: images.reshape(images.shape[0], -1)
    return distillation.fc_nngp_ntk(flat(x), flat(y), depth=1).ntk


@jax.jit
def accuracy(
    synthetic: distillation.Synthetic, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Predicts held-out labels by the regression that the loss stands for."""
    gram = kernel(synthetic.images, synthetic.images)
    ridge = distillation.ridge_from_trace(
        jnp.trace(gram), num_examples=gram.shape[0], scale="mean_trace"
    )
    cross = kernel(x, synthetic.images)
    scores = distillation.kernel_ridge_predict(gram, synthetic.targets, cross, ridge)
    return jnp.mean(jnp.argmax(scores, axis=-1) == y)


class Run(NamedTuple):
    """One distillation: the set before and after, the loss, both accuracies."""

    start: distillation.Synthetic
    end: distillation.Synthetic
    losses: np.ndarray
    accuracies: tuple[float, float]


def run(config: Config, data: Data, parts: runs.Parts, size: int, seed: int) -> Run:
    """Distills once."""
    subset_key, run_key = jax.random.split(jax.random.key(config.seed + seed))
    rows = distillation.random_subset(
        subset_key, data.images, num_points=size, labels=data.labels
    )
    targets = data_.centered_one_hot(data.labels, data.num_classes)
    start = distillation.Synthetic(data.images[rows], targets[rows])
    state, losses = runs.distill(
        distillation.init_distill_state(run_key, *start, **parts),
        (data.images, targets),
        parts,
        num_steps=config.num_steps,
        batch_size=min(config.batch_size, len(data.images)),
        checkpoints=common.Checkpoints(config, f"{size}_{seed}"),
        block=config.block,
        label=f"{size} images, seed {seed}",
    )
    test = data.test_images, data.test_labels
    scores = [float(accuracy(s, *test)) for s in (start, state.synthetic)]
    return Run(start, state.synthetic, losses, (scores[0], scores[1]))


def run_all(config: Config, data: Data, clock: runs.Clock) -> dict[int, list[Run]]:
    """Distills into every size with every seed."""
    parts = {
        "network": kernel,
        "outer_optimizer": optax.adam(config.learning_rate),
        # A kernel has no networks to train.
        "inner_optimizer": optax.identity(),
        "config": distillation.DistillConfig.kip(learn_targets=config.learn_targets),
    }
    results = {}
    for size in config.sizes:
        with clock.phase(f"{size} images"):
            results[size] = [
                run(config, data, parts, size, seed) for seed in range(config.num_seeds)
            ]
    return results


def report(
    config: Config, results: dict[int, list[Run]], clock: runs.Clock
) -> dict[str, float]:
    """Prints and returns the accuracies on held-out images."""
    rows, measured = [], {}
    for size, several in results.items():
        scores = np.array([r.accuracies for r in several])
        for i, name in enumerate(PIXELS):
            values = 100 * scores[:, i]
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            loss = np.mean([r.losses[-i] for r in several])
            rows.append([size if i == 0 else None, name, values.mean(), spread])
            rows[-1] += [values.min(), loss]
            measured |= {
                f"{size}/{name}/accuracy": float(scores[:, i].mean()),
                f"{size}/{name}/lowest accuracy": float(scores[:, i].min()),
                f"{size}/{name}/loss": float(loss),
            }
            for seed, value in enumerate(scores[:, i]):
                measured[f"{size}/{name}/seed {seed}"] = float(value)
        measured[f"{size}/CPU seconds"] = clock.seconds[f"{size} images"]
    common.print_table(
        f"{config.dataset}: accuracy of kernel ridge regression on held-out images, %",
        ["images", "set", "accuracy", "std. dev.", "lowest seed", "batch loss"],
        rows,
        caption=f"{config.num_seeds} seeds, {config.num_steps} steps; "
        f"{sum(clock.seconds.values()):.0f} CPU seconds in all",
    )
    return measured


def draw(results: dict[int, list[Run]]) -> Figure:
    """Draws the outer loss of every run."""
    figure, axes = plots.new_figure("KIP: loss of the batch against the step")
    for i, (size, several) in enumerate(results.items()):
        for run_ in several:
            axes[0, 0].plot(run_.losses, color=plots.COLORS[i], linewidth=0.8)
        axes[0, 0].plot([], [], color=plots.COLORS[i], label=f"{size} images")
    axes[0, 0].set_yscale("log")
    plots.label(axes[0, 0], title="", x="step", y="outer loss")
    plots.legend(axes[0, 0])
    return figure


def draw_images(results: dict[int, list[Run]], data: Data) -> Figure:
    """Shows the images of the first seed before and after."""
    rows = {}
    for size, (first, *_) in results.items():
        for name, synthetic in (("subset", first.start), ("distilled", first.end)):
            rows[f"{size} images, {name}"] = runs.as_set(synthetic, data)
    return runs.draw_pictures("KIP: images before and after", rows)


def main(config: Config) -> dict[str, float]:
    """Distills into every size and returns accuracies."""
    data = data_.load(config.dataset, config.data, size=config.size, count=config.count)
    clock = runs.Clock()
    results = run_all(config, data, clock)
    measured = report(config, results, clock)
    common.save_json(config, "distillation_kip", measured)
    if config.output is not None:
        common.save_figure(config, "distillation_kip_loss", draw(results))
        common.save_figure(
            config, "distillation_kip_images", draw_images(results, data)
        )
        for size, (first, *_) in results.items():
            made = runs.as_set(
                first.end,
                data,
                target_kind="centered_one_hot",
                notes=f"KIP on {config.dataset}, {config.num_steps} steps",
            )
            runs.save_set(config, f"distilled_{size}", made)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
