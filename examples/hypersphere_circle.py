"""Embeddings of digits on a circle and on a sphere: where the class weights go.

Paper: Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition*, IEEE Transactions on Image Processing 2021, the figure of embeddings in
two dimensions; scikit-learn's digits instead of the paper's data.

A network 64-128-128-D with batch norm trains on the ten digits, with and without wrong
labels; the figure shows embeddings of the test set and the class weights for D = 2, the
table also D = 3. Ten classes share a circle of 360 degrees: the push of SFace must be
off at 36 degrees, so its angle b must be below 2 pi / 10 = 0.63, or no arrangement is at
rest; on the sphere of three dimensions ten points can be 66 degrees apart (1.15), and
from D = 9 on ten classes fit at 96 degrees, arccos(-1/9). The defaults of the loss, made
for hundreds of dimensions, do not fit here.

How to read the table: "gaps" are the angles between neighbors among the class weights,
for even spacing all 36 degrees on the circle; on the sphere they lead to the nearest
weight. "accuracy" is that of the nearest class weight on clean test labels. On the
circle SFace spaces the classes evenly with right and with wrong labels, as its push
stops; NormFace does so while the labels are right. With a fifth of them wrong the losses
with a softmax, which always find a sample to push, end with all weights in a few
directions and classes that cannot be told apart. With one dimension more they do not
collapse, and there ArcFace has the higher accuracy under wrong labels: the circle makes
the mechanism visible, it is no benchmark.

Command: python examples/hypersphere_circle.py --output outputs/circle
Time: under two minutes on two CPU cores. Needs scikit-learn.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _hypersphere_data import read_digits
from flax import nnx
from matplotlib.figure import Figure

from jaxkit import hypersphere, ops
from jaxkit.hypersphere import MarginConfig, SFaceConfig
from jaxkit.nn import HypersphereHead
from jaxkit.typing import PyTree

NUM_CLASSES = 10


def sface(dim: int) -> SFaceConfig:
    """SFace with angles that ten classes can reach."""
    soft = SFaceConfig.small_scale()
    far = 0.55 if dim == 2 else 1.0
    return dataclasses.replace(soft, intra_angle=0.2, inter_angle=far)


LOSSES = {
    "SFace": sface,
    "ArcFace s=64": lambda dim: MarginConfig.arcface(),
    "NormFace s=16": lambda dim: MarginConfig.normface(scale=16.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    dims: tuple[int, ...] = common.option((2, 3), "dimensions of the embeddings")
    rates: tuple[float, ...] = common.option((0.0, 0.2), "shares of wrong labels")
    num_seeds: int = common.option(1, "how many seeds, from --seed on", paper=5)
    num_steps: int = common.option(1500, "training steps")
    batch_size: int = common.option(128, "images of a step")
    learning_rate: float = common.option(1e-2, "first step size of Adam")
    width: int = common.option(128, "hidden units of both layers")


class Digits(NamedTuple):
    """Images `[N, 64]` and labels `[N]` to train and to test on."""

    train: jax.Array
    labels: jax.Array
    test: jax.Array
    test_labels: jax.Array


def split_digits(images: np.ndarray, labels: np.ndarray) -> Digits:
    """Keeps a quarter for the test, the same for all seeds."""
    order = np.random.default_rng(0).permutation(labels.size)
    cut = labels.size * 3 // 4
    flat = images.reshape(labels.size, -1)[order]
    train, test = np.split(flat, [cut])
    return Digits(
        *map(jnp.asarray, (train, labels[order][:cut], test, labels[order][cut:]))
    )


class Model(nnx.Module):
    """Two hidden layers and a norm without scale and bias; the class weights."""

    def __init__(self, pixels: int, width: int, dim: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(pixels, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, dim, rngs=rngs)
        self.norm = nnx.BatchNorm(
            dim, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs
        )
        self.head = HypersphereHead(dim, NUM_CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images `[B, pixels]` to embeddings `[B, dim]`."""
        x = jax.nn.relu(self.first(images))
        x = self.last(jax.nn.relu(self.second(x)))
        return self.norm(x, use_running_average=not train)


class Result(NamedTuple):
    """What training gave.

    Attributes:
      weights: unit class weights, `[10, dim]`.
      embeddings: unit embeddings of the test images, `[N, dim]`.
      accuracy: of the nearest class weight.
    """

    weights: np.ndarray
    embeddings: np.ndarray
    accuracy: float


@functools.partial(jax.jit, static_argnames=("config", "dim"))
def _fit(
    data: Digits,
    labels: jax.Array,
    seed: jax.Array,
    loss: Any,
    config: Config,
    dim: int,
) -> tuple[jax.Array, jax.Array]:
    """Trains; returns unit class weights and unit embeddings of the test images."""
    pixels = data.train.shape[1]
    rngs = nnx.Rngs(jax.random.key(seed))
    model = Model(pixels, config.width, dim, rngs=rngs)
    graphdef, *variables = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, variables)
    optimizer = optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    )
    batch_key = jax.random.fold_in(jax.random.key(seed), 1)

    def objective(
        params: PyTree, stats: PyTree, rows: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        model = nnx.merge(graphdef, params, stats)
        embeddings = model(data.train[rows], train=True)
        values = hypersphere.hypersphere_loss(
            embeddings, model.head.weight[...], labels[rows], loss
        )
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return ops.masked_mean(values), stats

    def step(carry: tuple[PyTree, ...], index: jax.Array) -> tuple[Any, None]:
        params, stats, memory = carry
        key = jax.random.fold_in(batch_key, index)
        rows = jax.random.randint(key, (config.batch_size,), 0, labels.shape[0])
        gradient, stats = jax.grad(objective, has_aux=True)(params, stats, rows)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), stats, memory), None

    carry = (params, stats, optimizer.init(params))
    (params, stats, _), _ = jax.lax.scan(step, carry, jnp.arange(config.num_steps))
    model = nnx.merge(graphdef, params, stats)
    weights = hypersphere.l2_normalize(model.head.weight[...])
    return weights, hypersphere.l2_normalize(model(data.test))


def run(config: Config, data: Digits, name: str, dim: int, rate: float, seed: int):
    """Trains with one loss and tests it."""
    noisy = hypersphere.flip_labels(
        jax.random.key(seed), data.labels, num_classes=NUM_CLASSES, rate=rate
    )
    shared = dataclasses.replace(config, output=None)
    loss = jax.tree.map(jnp.float32, LOSSES[name](dim))
    weights, embeddings = _fit(data, noisy.labels, jnp.asarray(seed), loss, shared, dim)
    nearest = jnp.argmax(embeddings @ weights.T, axis=1)
    accuracy = float(jnp.mean(nearest == data.test_labels))
    return Result(np.asarray(weights), np.asarray(embeddings), accuracy)


def gaps(weights: np.ndarray) -> np.ndarray:
    """Angles in degrees: around the circle in order, else to the nearest weight."""
    if weights.shape[1] == 2:
        angles = np.sort(np.degrees(np.arctan2(weights[:, 1], weights[:, 0])))
        return np.diff(angles, append=angles[0] + 360.0)
    cos = weights @ weights.T - 2.0 * np.eye(weights.shape[0])
    return np.degrees(np.arccos(np.clip(cos.max(axis=1), -1.0, 1.0)))


def draw(
    config: Config, results: dict[tuple[Any, ...], Result], data: Digits
) -> Figure:
    """Draws the first two coordinates of embeddings, and the class weights as rays."""
    rows = [(dim, rate) for dim in config.dims for rate in config.rates]
    figure, axes = plots.new_figure(
        "Digits on a circle and a sphere", len(rows), len(LOSSES), width=3.2, height=3.2
    )
    colors = [f"C{i}" for i in range(NUM_CLASSES)]
    labels = np.asarray(data.test_labels)
    for row, (dim, rate) in zip(axes, rows, strict=True):
        for ax, name in zip(row, LOSSES, strict=True):
            result = results[name, dim, rate, config.seed]
            for digit, color in enumerate(colors):
                members = result.embeddings[labels == digit]
                # On the circle: radii differ a little, for points not to hide others.
                radius = 1.0
                if dim == 2:
                    radius = 1.0 + 0.08 * np.linspace(-1, 1, len(members))[:, None]
                ax.scatter(*(radius * members[:, :2]).T, s=3, color=color, alpha=0.5)
                end = result.weights[digit, :2]
                ax.plot([0, end[0]], [0, end[1]], color=color, linewidth=1.2)
                ax.text(*(1.2 * end), str(digit), fontsize=8, ha="center", va="center")
            ax.set_aspect("equal")
            ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35))
            noise = f"{100 * rate:g} % wrong labels"
            plots.label(ax, title=f"{name}, D = {dim}, {noise}", x="", y="")
    return figure


def main(config: Config) -> dict[str, float]:
    """Trains with every loss, dimension, rate and seed; returns gaps and accuracies."""
    data = split_digits(*read_digits())
    results, measured, rows = {}, {}, []
    for dim in config.dims:
        for rate in config.rates:
            for name in LOSSES:
                seeds = range(config.seed, config.seed + config.num_seeds)
                found = [run(config, data, name, dim, rate, s) for s in seeds]
                results |= {
                    (name, dim, rate, s): r for s, r in zip(seeds, found, strict=True)
                }
                spaces = np.stack([gaps(r.weights) for r in found])
                tag = f"{name}/D={dim}/{rate:g}"
                values = {
                    "accuracy": np.mean([r.accuracy for r in found]),
                    "smallest gap": spaces.min(axis=1).mean(),
                    "largest gap": spaces.max(axis=1).mean(),
                    "sd of gaps": spaces.std(axis=1).mean(),
                }
                measured |= {f"{tag}/{k}": float(v) for k, v in values.items()}
                rows.append([name, dim, f"{100 * rate:g} %", *values.values()])
    common.print_table(
        "Class weights of ten digits",
        ["loss", "D", "wrong labels", "accuracy", "smallest gap", "largest", "sd"],
        rows,
        caption=f"gaps in degrees; means over {config.num_seeds} seeds",
    )
    common.save_figure(config, "hypersphere_circle", draw(config, results, data))
    common.save_json(config, "hypersphere_circle", measured)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
