"""Why the inner problem of distillation holds no augmentation: its gradient is biased.

Paper: Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
2024. A model is trained on synthetic examples under a random augmentation or mask; the
outer loss of that model is differentiated back to the examples. With one draw per step
the mean gradient is not the gradient of the outer loss of the model that minimizes the
mean inner loss: a covariance between the outer slope and the inner response is left
over. Averaging more of these gradients keeps it; only draws averaged *inside* one inner
loss make it smaller.

Three experiments: two problems of one number, where everything is a fraction (A: random
scale, B: masking); the bias on digits, measured for shifts of a pixel and for masks of
half the pixels; and what it costs, distilling with each estimator of the gradient. On
digits the inner problem is ridge regression on the features of a fixed random
convolutional network, each image is augmented by itself, and the exact gradient comes
from one inner loss over all augmentations.

How to read the numbers: the relative bias is the length of (mean estimator - exact)
over that of the exact gradient, from two independent halves of the draws, so that noise
does not count. The last column of the last table is the exact outer loss on held-out
digits after distilling, as a fraction of variance.

Command: python examples/distillation_biased_gradient.py --output outputs/bias
Time: under two minutes on two CPU cores, compilation included.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import _common as common
import _distillation_data as data_
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _distillation_data import Data
from matplotlib.figure import Figure

import jaxkit
from jaxkit import distillation

NUM_KINDS = {"shift": 9, "mask": 16}
ESTIMATORS = ("one draw", "mean of 16 gradients", "16 draws inside", "exact")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    num_synthetic: int = common.option(20, "images to distill into")
    num_real: int = common.option(500, "real images in the outer loss")
    widths: tuple[int, ...] = common.option((16, 32), "channels of the network")
    ridge: float = common.option(1e-4, "of the inner problem, relative to the trace")
    num_draws: int = common.option(256, "gradients to average for the bias")
    num_steps: int = common.option(100, "steps of distillation", paper=1000)
    learning_rate: float = common.option(2e-2, "of Adam")
    num_seeds: int = common.option(2, "distillations per estimator", paper=5)


class Toy(NamedTuple):
    """A problem of one number.

    Attributes:
      name: what the table shows.
      inner: the inner loss of the model, the example and the draw.
      outer: the outer loss of the model.
      draws: the equally likely draws.
    """

    name: str
    inner: Callable[..., jax.Array]
    outer: Callable[[jax.Array], jax.Array]
    draws: tuple[float, ...]


TOYS = (
    Toy(
        "A: random scale",
        lambda theta, x, a: 0.5 * (theta - a * x) ** 2,
        lambda theta: 0.5 * (theta - 1.0) ** 2,
        (0.5, 1.5),
    ),
    Toy(
        "B: masking",
        lambda w, x, m: 0.5 * (w * m * x - 1.0) ** 2 + 0.5 * w**2,
        lambda w: 0.5 * (w - 1.0) ** 2,
        (0.0, 1.0),
    ),
)


def minimize(loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Solves a quadratic inner problem by one exact Newton step from 0."""
    zero = jnp.zeros(())
    return -jax.grad(loss)(zero) / jax.grad(jax.grad(loss))(zero)


def toy_gradient(toy: Toy, x: float, *, num_inside: int) -> jax.Array:
    """Averages the gradient over all draws; 0 inside means the mean inner loss.

    Args:
      toy: the problem.
      x: the example.
      num_inside: how many draws one inner loss averages.

    Returns:
      The mean of the estimator, or the exact gradient.
    """

    def outer(x: jax.Array, draws: jax.Array) -> jax.Array:
        loss = lambda theta: jnp.mean(jax.vmap(lambda d: toy.inner(theta, x, d))(draws))
        return toy.outer(minimize(loss))

    sets = (
        itertools.product(toy.draws, repeat=num_inside) if num_inside else [toy.draws]
    )
    draws = jnp.array(list(sets))
    each = jax.jit(jax.vmap(jax.grad(outer), in_axes=(None, 0)))
    return jnp.mean(each(jnp.asarray(x), draws))


def toys() -> dict[str, float]:
    """Prints and returns both toys, in float64."""
    rows, measured = [], {}
    with jax.enable_x64(True):
        for toy, x in itertools.product(TOYS, (0.5, 1.0, 2.0)):
            counts = {"exact": 0, "one draw": 1, "2 inside": 2, "4 inside": 4}
            values = {
                name: float(toy_gradient(toy, x, num_inside=count))
                for name, count in counts.items()
            }
            rows.append([toy.name, x, *(f"{value:.9g}" for value in values.values())])
            measured |= {f"{toy.name}/x {x:g}/{k}": v for k, v in values.items()}
    common.print_table(
        "Toys: the gradient of the outer loss and the means of its estimators",
        ["toy", "x", "exact", "one draw", "2 draws inside", "4 draws inside"],
        rows,
    )
    return measured


class Problem(NamedTuple):
    """Distillation of digits with fixed features.

    Attributes:
      start: the synthetic images and targets at the start.
      loss: the outer loss of `(synthetic, picks, real)`; `picks` of shape `[m, n]` says
        which augmentation each image has in each of the `m` draws inside.
      real: training images and targets.
      held_out: held-out images and targets.
      num_kinds: how many augmentations there are.
    """

    start: distillation.Synthetic
    loss: Callable[..., jax.Array]
    real: distillation.Synthetic
    held_out: distillation.Synthetic
    num_kinds: int

    @property
    def every(self) -> jax.Array:
        """Picks that hold each augmentation of each image once."""
        shape = (self.num_kinds, len(self.start.images))
        return jnp.broadcast_to(jnp.arange(self.num_kinds)[:, None], shape)


def shifts(images: jax.Array, picks: jax.Array) -> jax.Array:
    """Shifts each image by at most one pixel, nine ways, the border repeated."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")

    def cut(image: jax.Array, pick: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (pick // 3, pick % 3, 0), images.shape[1:])

    return jax.vmap(jax.vmap(cut), in_axes=(None, 0))(padded, picks)


def masks(images: jax.Array, picks: jax.Array) -> jax.Array:
    """Sets half of the pixels to the mean, in a fixed number of ways."""
    shape = (NUM_KINDS["mask"], *images.shape[1:3], 1)
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, shape)
    return jnp.where(keep[picks], images[None], 0.0)


# Maps images [n, H, W, C] and picks [m, n] to images [m, n, H, W, C].
AUGMENTATIONS = {"shift": shifts, "mask": masks}


def make_problem(config: Config, data: Data, name: str, seed: int) -> Problem:
    """Draws network and subset, and fixes the ridge at the start."""
    subset_key, net_key = jax.random.split(jax.random.key(config.seed + seed))
    rows = distillation.random_subset(
        subset_key, data.images, num_points=config.num_synthetic, labels=data.labels
    )
    # Divided by the deviation, so that predicting the mean scores 1.
    scale = np.sqrt((1.0 - 1.0 / data.num_classes) / data.num_classes)
    target = lambda y: data_.centered_one_hot(y, data.num_classes) / scale
    pairs = lambda x, y: distillation.Synthetic(x, target(y))
    start = pairs(data.images[rows], data.labels[rows])
    network = jaxkit.nn.network_functions(
        lambda rngs: jaxkit.nn.ConvNet(
            data.channels, data.size, data.num_classes, widths=config.widths, rngs=rngs
        )
    )
    model = network.init(net_key)

    def features(images: jax.Array) -> jax.Array:
        return jnp.pad(
            network.embed(*model, images), ((0, 0), (0, 1)), constant_values=1.0
        )

    ridge = config.ridge * jnp.sum(features(start.images) ** 2)
    augment = AUGMENTATIONS[name]

    def loss(
        synthetic: distillation.Synthetic,
        picks: jax.Array,
        real: distillation.Synthetic,
    ) -> jax.Array:
        images = augment(synthetic.images, picks)
        # The mean over draws of the inner loss: rows divided by the root of their number.
        root = np.sqrt(picks.shape[0])
        feat_s = features(images.reshape(-1, *images.shape[2:])) / root
        y_s = jnp.tile(synthetic.targets, (picks.shape[0], 1)) / root
        feat_t = jax.lax.stop_gradient(features(real.images))
        # The ridge bounds the condition by 1 / config.ridge, so that the smaller of the
        # two systems is accurate enough.
        method = "primal" if feat_s.shape[0] > feat_s.shape[1] else "cholesky"
        predicted = distillation.ridge_predict(
            feat_s, y_s, feat_t, ridge, method=method
        )
        return jnp.mean((predicted - real.targets) ** 2)

    count = config.num_real
    real = pairs(data.images[:count], data.labels[:count])
    held_out = pairs(data.test_images, data.test_labels)
    return Problem(start, jax.jit(loss), real, held_out, NUM_KINDS[name])


def estimator(problem: Problem, name: str) -> Callable[..., Any]:
    """Gives `gradient(key, synthetic)` by the name of the estimator."""
    size = len(problem.start.images)
    slope = jax.grad(problem.loss)

    def draw(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.randint(key, (*shape, size), 0, problem.num_kinds)

    def gradient(key: jax.Array, synthetic: distillation.Synthetic) -> Any:
        if name == "exact":
            return slope(synthetic, problem.every, problem.real)
        if name == "mean of 16 gradients":
            one = lambda picks: slope(synthetic, picks, problem.real)
            return jax.tree.map(lambda x: x.mean(0), jax.vmap(one)(draw(key, 16, 1)))
        inside = {"one draw": 1, "4 draws inside": 4, "16 draws inside": 16}[name]
        return slope(synthetic, draw(key, inside), problem.real)

    return gradient


def measure_bias(
    config: Config, problem: Problem, name: str, *, chunk: int = 16
) -> dict[str, float]:
    """Compares the mean of an estimator with the exact gradient in the images."""
    exact = estimator(problem, "exact")(jax.random.key(0), problem.start).images.ravel()
    gradient = estimator(problem, name)

    @jax.jit
    def some(keys: jax.Array) -> jax.Array:
        draws = jax.vmap(lambda key: gradient(key, problem.start).images.ravel())(keys)
        return draws.mean(0)

    halves = []
    for half in (0, 1):
        keys = jax.random.split(jax.random.key(half + 1), config.num_draws // 2)
        parts = [some(keys[i : i + chunk]) for i in range(0, len(keys), chunk)]
        halves.append(sum(parts) / len(parts))
    bias = [half - exact for half in halves]
    mean, length = sum(halves) / 2, jnp.linalg.norm(exact)
    # Noise of the two halves is independent, so their product is unbiased.
    squared = jnp.vdot(*bias)
    cosine = jnp.vdot(mean, exact) / (jnp.linalg.norm(mean) * length)
    return {
        "relative bias": float(jnp.sqrt(jnp.maximum(squared, 0.0)) / length),
        "length": float(jnp.vdot(mean, exact) / length**2),
        "cosine": float(cosine),
    }


def biases(config: Config, data: Data) -> dict[str, float]:
    """Prints and returns the bias of every estimator on digits."""
    rows, measured = [], {}
    for kind in AUGMENTATIONS:
        problem = make_problem(config, data, kind, 0)
        for name in ("one draw", "4 draws inside", "16 draws inside"):
            found = measure_bias(config, problem, name)
            rows.append([kind, name, *found.values()])
            measured |= {f"digits, {kind}/{name}/{k}": v for k, v in found.items()}
    common.print_table(
        "Digits: the mean of an estimator against the exact gradient in the images",
        ["augmentation", "estimator", "relative bias", "along exact", "cosine"],
        rows,
        caption=f"{config.num_draws} draws of each estimator; a gradient without bias "
        "has 0, 1, 1",
    )
    return measured


def distill(config: Config, problem: Problem, name: str, seed: int) -> np.ndarray:
    """Distills with an estimator; gives the exact held-out loss along the way."""
    optimizer = optax.adam(config.learning_rate)
    gradient = estimator(problem, name)

    @jax.jit
    def step(key: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        synthetic, memory = state
        updates, memory = optimizer.update(gradient(key, synthetic), memory, synthetic)
        return optax.apply_updates(synthetic, updates), memory

    check = functools.partial(problem.loss, picks=problem.every, real=problem.held_out)
    state, key = (problem.start, optimizer.init(problem.start)), jax.random.key(seed)
    curve = [float(check(state[0]))]
    # A Python loop: XLA slows convolutions inside its own loops on a CPU.
    for index in range(config.num_steps):
        state = step(jax.random.fold_in(key, index), state)
        if (index + 1) % max(config.num_steps // 10, 1) == 0:
            curve.append(float(check(state[0])))
    return np.array(curve)


def costs(config: Config, data: Data) -> dict[tuple[str, str], np.ndarray]:
    """Distills with every estimator, all seeds."""
    curves = {}
    for kind, name in itertools.product(AUGMENTATIONS, ESTIMATORS):
        seeds = range(config.num_seeds)
        curves[kind, name] = np.stack(
            [
                distill(config, make_problem(config, data, kind, seed), name, seed)
                for seed in seeds
            ]
        )
    return curves


def report(
    config: Config, curves: dict[tuple[str, str], np.ndarray]
) -> dict[str, float]:
    """Prints and returns where distillation ends with every estimator."""
    rows, measured = [], {}
    for (kind, name), curve in curves.items():
        rows.append([kind, name, curve[:, 0].mean(), curve[:, -1].mean()])
        rows[-1] += [curve[:, -1].min(), curve[:, -1].max()]
        measured[f"digits, {kind}/{name}/start"] = float(curve[:, 0].mean())
        measured[f"digits, {kind}/{name}/end"] = float(curve[:, -1].mean())
    common.print_table(
        "Digits: exact held-out loss before and after distilling with each estimator",
        ["augmentation", "estimator", "before", "after", "lowest seed", "highest"],
        rows,
        caption=f"{config.num_seeds} seeds, {config.num_steps} steps of Adam",
    )
    return measured


def draw(config: Config, curves: dict[tuple[str, str], np.ndarray]) -> Figure:
    """Draws the exact held-out loss against the step."""
    figure, axes = plots.new_figure(
        "Distilling under augmentation: the exact held-out loss", 1, len(AUGMENTATIONS)
    )
    for (kind, name), curve in curves.items():
        ax = axes[0, list(AUGMENTATIONS).index(kind)]
        steps = np.linspace(0, config.num_steps, curve.shape[1])
        color = plots.COLORS[ESTIMATORS.index(name)]
        ax.plot(steps, curve.mean(0), color=color, label=name)
        ax.fill_between(steps, curve.min(0), curve.max(0), color=color, alpha=0.15)
        plots.label(ax, title=kind, x="step", y="fraction of variance")
    plots.legend(axes[0, 0])
    return figure


def main(config: Config) -> dict[str, float]:
    """Runs all three experiments and returns every number."""
    measured = toys()
    data = data_.load("digits")
    measured |= biases(config, data)
    curves = costs(config, data)
    measured |= report(config, curves)
    common.save_json(config, "distillation_biased_gradient", measured)
    if config.output is not None:
        figure = draw(config, curves)
        common.save_figure(config, "distillation_biased_gradient", figure)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
