"""Distills images without labels, for pre-training: KRR-ST beside its baselines.

Paper: Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
2024. A teacher learns a representation of the images without labels (Barlow Twins). A
few synthetic images and target representations are then moved so that kernel ridge
regression on them, with the features of a pool of networks, predicts the teacher on the
real images. Whoever has the set trains any network on it by plain squared error.

The first table trains new networks on each set and reports the squared error to the
teacher on held-out images, as a fraction of variance (the mean scores 1): of the output
of the network ("head") and with its last layer solved anew ("KRR"). "random" and
"k-means" are real images with the targets of the teacher, as strong a baseline as there
is without distillation. The second table spends a few labels per class: a linear probe
on frozen features, and fine-tuning of the whole network.

How to read the numbers: the errors separate the methods; accuracies at this size do
not, and are shown to say so. --methods names other rows, such as "FRePo", "KIP",
"KRR-ST, images only" or "KRR-ST, fresh networks" (what the released code amounts to
after its counters have run out). --init chooses the start of all distilled rows.

Command: python examples/distillation_krr_st.py --output outputs/krr_st
Time: under two minutes on two CPU cores, compilation included. --preset paper is
CIFAR-size work for one accelerator (--data FILE.npz, or --dataset stand-in): it states
the expected time before the first step.
"""

import dataclasses
import json
from typing import Any, Literal, NamedTuple

import _common as common
import _distillation_lab as lab_
import _distillation_runs as runs
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _distillation_lab import Lab
from matplotlib.figure import Figure

import jaxkit
from jaxkit import distillation

ROWS = (
    "random",
    "k-means, pixels",
    "k-means, teacher",
    "KRR-ST from random",
    "KRR-ST from k-means",
)
FRESH = "no pre-training"
FULL = "all images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(lab_.LabConfig):
    """The options."""

    num_synthetic: int = common.option(20, "images to distill into", paper=1000)
    methods: tuple[str, ...] = common.option(ROWS, "which rows to run")
    init: Literal["", "random", "pixels", "teacher", "center"] = common.option(
        "", "start of all distilled rows, empty for what their names say"
    )
    full: bool = common.option(True, "also train on all images")
    labels_per_class: int = common.option(
        5, "of the second table, 0 for none", paper=50
    )
    finetune_steps: int = common.option(100, "of the second table", paper=10_000)


class Score(NamedTuple):
    """What one network, trained on one set, is worth.

    Attributes:
      head: error of its output.
      krr: error with its last layer solved anew.
      probe: accuracy of a linear probe on its features.
      tuned: accuracy after fine-tuning.
    """

    head: float
    krr: float
    probe: float
    tuned: float


class Row(NamedTuple):
    """All runs of one method.

    Attributes:
      scores: by distillation and evaluation.
      start: the real images of the first run.
      end: its set.
      losses: the outer loss of every run before each step.
    """

    scores: np.ndarray
    start: distillation.Synthetic
    end: distillation.Synthetic
    losses: list[np.ndarray]


class Judge:
    """Spends a few labels on networks, always the same ones."""

    def __init__(self, lab: Lab, config: Config) -> None:
        """Draws the labeled images and prepares the network to fine-tune."""
        self.lab, self.config, data = lab, config, lab.data
        self.rows = distillation.random_subset(
            jax.random.key(config.seed + 1000),
            data.images,
            num_points=max(config.labels_per_class * data.num_classes, 1),
            labels=data.labels,
        )
        self.network = jaxkit.nn.network_functions(
            lambda rngs: jaxkit.nn.ConvNet(
                data.channels,
                data.size,
                data.num_classes,
                widths=config.widths,
                rngs=rngs,
            )
        )
        rate = optax.cosine_decay_schedule(0.01, config.finetune_steps)
        self.optimizer = optax.chain(
            optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9)
        )
        self.embed = jax.jit(lab.network.embed)
        self.apply = jax.jit(self.network.apply, static_argnums=3)

    def __call__(self, model: tuple[Any, Any], key: jax.Array) -> tuple[float, float]:
        """Gives the accuracies of a linear probe and after fine-tuning."""
        if not self.config.labels_per_class:
            return np.nan, np.nan
        data = self.lab.data
        images, labels = data.images[self.rows], data.labels[self.rows]
        with self.lab.clock.phase("labels"):
            probe = lab_.probe_accuracy(
                self.embed(*model, images),
                labels,
                self.embed(*model, data.test_images),
                data.test_labels,
                num_classes=data.num_classes,
            )
            head_key, order_key = jax.random.split(key)
            fresh, _ = self.network.init(head_key)
            tuned = distillation.finetune(
                order_key,
                distillation.replace_head(model[0], fresh),
                model[1],
                images,
                labels,
                network=self.network,
                optimizer=self.optimizer,
                num_steps=self.config.finetune_steps,
                batch_size=256,
                augment=distillation.crop_and_flip if data.augmented else None,
            )
            logits, _ = self.apply(*tuned, data.test_images, False)
            found = jnp.argmax(logits, -1) == data.test_labels
            return float(probe), float(jnp.mean(found))


def score(
    lab: Lab, judge: Judge, synthetic: distillation.Synthetic, seed: int
) -> Score:
    """Trains one network on a set and measures it."""
    pretrain_key, judge_key = jax.random.split(jax.random.key(10_000 + seed))
    model = lab_.train_on(lab, synthetic, pretrain_key)
    errors = lab_.representation_errors(lab, synthetic, model)
    return Score(*errors, *judge(model, judge_key))


def run_method(lab: Lab, judge: Judge, name: str, config: Config) -> Row:
    """Makes sets with one method and trains networks on each."""
    scores, losses, first = [], [], None
    for seed in range(config.num_seeds):
        start, end, loss = lab_.make_set(lab, name, config.num_synthetic, seed)
        first = first or (start, end)
        losses.append(loss)
        scores.append(
            [score(lab, judge, end, s) for s in range(config.num_evaluations)]
        )
    return Row(np.array(scores), *first, losses)


def run_baselines(lab: Lab, judge: Judge, config: Config) -> dict[str, np.ndarray]:
    """Scores networks without a set, and networks that saw all images."""
    fresh = []
    for seed in range(config.num_evaluations):
        init_key, judge_key = jax.random.split(jax.random.key(20_000 + seed))
        model = lab.network.init(init_key)
        fresh.append(Score(np.nan, np.nan, *judge(model, judge_key)))
    scores = {FRESH: np.array([fresh])}
    if config.full:
        batch = config.pretrain_batch or config.batch_size
        lab = lab._replace(config=dataclasses.replace(config, pretrain_batch=batch))
        every = distillation.Synthetic(lab.data.images, lab.targets)
        seeds = range(config.num_evaluations)
        scores[FULL] = np.array([[score(lab, judge, every, s) for s in seeds]])
    return scores


def report(
    config: Config, scores: dict[str, np.ndarray], clock: runs.Clock
) -> dict[str, float]:
    """Prints both tables and returns every number."""
    measured, rows, labeled = {}, [], []
    for name, values in scores.items():
        mean = values.mean((0, 1))
        # Over distillations, each the mean of its evaluations.
        each = values.mean(1)
        spread = each.std(0, ddof=1) if len(each) > 1 else np.full(4, np.nan)
        if np.isfinite(mean[0]):
            rows.append([name, mean[0], spread[0], mean[1], spread[1]])
        labeled.append([name, 100 * mean[2], 100 * mean[3]])
        for i, field in enumerate(Score._fields):
            measured[f"{name}/{field}"] = float(mean[i])
            for j, k in np.ndindex(values.shape[:2]):
                key = f"{name}/{field}/seed {j}/evaluation {k}"
                measured[key] = float(values[j, k, i])
    columns = ["set", "head error", "std. dev.", "KRR error", "std. dev."]
    common.print_table(
        f"{config.dataset}, {config.num_synthetic} images: error on held-out images",
        columns,
        [[_blank(cell) for cell in row] for row in rows],
        caption=f"{config.num_seeds} sets a row, {config.num_evaluations} networks a "
        "set; a fraction of the variance of the teacher",
    )
    if config.labels_per_class:
        common.print_table(
            f"Accuracy with {config.labels_per_class} labels per class, %",
            ["set", "linear probe", "fine-tuned"],
            labeled,
        )
    return {k: v for k, v in measured.items() if np.isfinite(v)} | clock_report(clock)


def _blank(cell: Any) -> Any:
    return None if isinstance(cell, float) and np.isnan(cell) else cell


def clock_report(clock: runs.Clock) -> dict[str, float]:
    """Prints and returns the processor time of each phase."""
    total = sum(clock.seconds.values())
    rows = [[name, f"{value:.1f}"] for name, value in clock.seconds.items()]
    common.print_table(
        "CPU seconds", ["phase", "time"], [*rows, ["all", f"{total:.1f}"]]
    )
    return {f"CPU seconds/{name}": value for name, value in clock.seconds.items()}


def draw(results: dict[str, Row], scores: dict[str, np.ndarray]) -> Figure:
    """Draws outer losses against steps and the head errors of all sets."""
    figure, axes = plots.new_figure(
        "Held-out error to the teacher", 1, 2, width=5.2, height=3.4
    )
    left, right = axes[0]
    for name, row in results.items():
        color = plots.COLORS[list(results).index(name) % len(plots.COLORS)]
        for loss in row.losses:
            if loss.size:
                left.plot(_smooth(loss), color=color, linewidth=0.8)
        if row.losses[0].size:
            left.plot([], [], color=color, label=name)
    left.set_yscale("log")
    plots.label(left, title="outer loss, mean of 20 steps", x="step", y="loss")
    if left.get_legend_handles_labels()[0]:
        plots.legend(left)
    shown = {
        n: v[..., 0].mean(1) for n, v in scores.items() if np.isfinite(v[..., 0]).all()
    }
    for place, values in enumerate(shown.values()):
        right.plot(values, np.full(len(values), place), "o", color="0.3", markersize=4)
    right.set_yticks(range(len(shown)), list(shown))
    right.invert_yaxis()
    right.set_xlim(left=0.0)
    plots.label(right, title="each dot one set", x="head error", y="")
    return figure


def _smooth(loss: np.ndarray, width: int = 20) -> np.ndarray:
    width = min(width, loss.size)
    return np.convolve(loss, np.full(width, 1 / width), mode="valid")


def save(config: Config, lab: Lab, results: dict[str, Row]) -> None:
    """Writes pictures before and after, and every first set as a file."""
    if config.output is None:
        return
    pictures = {}
    for name, row in results.items():
        options = {
            "target_mean": lab.target_mean,
            "target_std": lab.target_std,
            "target_kind": "standardized_representation",
            "notes": json.dumps({"method": name, "dataset": config.dataset}),
        }
        made = runs.as_set(row.end, lab.data, **options)
        slug = "".join(c if c.isalnum() else "_" for c in name.lower())
        runs.save_set(config, f"distilled_{slug}", made)
        if row.losses[0].size:
            pictures[f"{name}: before"] = runs.as_set(row.start, lab.data)
            pictures[f"{name}: after"] = made
    if pictures:
        figure = runs.draw_pictures("Synthetic images", pictures, most=20)
        common.save_figure(config, "distillation_krr_st_images", figure)


def run(config: Config) -> tuple[Lab, dict[str, Row], dict[str, np.ndarray]]:
    """Runs every method and baseline."""
    unknown = [name for name in config.methods if name not in lab_.METHODS]
    if unknown:
        known = "; ".join(lab_.METHODS)
        raise ValueError(f"`methods` must name some of {known}, got {unknown[0]!r}.")
    lab = lab_.make_lab(config)
    judge = Judge(lab, config)
    results = {name: run_method(lab, judge, name, config) for name in config.methods}
    baselines = run_baselines(lab, judge, config)
    scores = {FRESH: baselines.pop(FRESH)} | {n: r.scores for n, r in results.items()}
    return lab, results, scores | baselines


def main(config: Config) -> dict[str, float]:
    """Runs every method and returns every number."""
    lab, results, scores = run(config)
    measured = report(config, scores, lab.clock)
    common.save_json(config, "distillation_krr_st", measured)
    if config.output is not None:
        common.save_figure(config, "distillation_krr_st", draw(results, scores))
        save(config, lab, results)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
