"""Gradient flow of a diagonal start: the product ab tends to its exact limit.

Paper: Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
NeurIPS 2024, figures 1 to 3 and theorem 4.1: Gaussian first tokens with standard
deviation 0.5, 1, 2, sparse ones of size 0.5, 1, 2, three starts (a, b), full-batch
gradient descent on sampled sequences.

Three curves per start: the sampled run, exact gradient descent on the population
loss, and the closed-form gradient flow at time (step size) x (epoch). Two lines: the
limit at the training length, which the runs reach, and the limit of infinite length,
which the paper draws. The second row shows what the paper does: the ratio of
prediction to truth for Gaussian tokens, the test loss for sparse ones.

The small preset shortens the sequences and scales the step sizes of the paper so that
an epoch moves as far; it spreads its few Gaussian tokens evenly (a Latin hypercube),
because the limit depends on their sixth moment. The column "these tokens" shows exact
descent for the moments that the drawn tokens have.

How to read the numbers: a sampled Gaussian run ends some percent above the limit (4 %
with 512 sequences, 0.5 % with 8192), because the other entries of the two matrices
fit the sample. From (2, 2) at standard deviation 2 the first step of the paper is so
long that it multiplies a and b by about 0.2: descent then leaves the flow, and a
sampled run may land near 0 and come back slowly.

Command: python examples/mesa_gradient_flow.py --output outputs/flow
Time: about half a minute on two CPU cores; the paper preset wants an accelerator.
"""

import dataclasses
from typing import Any

import _common as common
import _mesa_training as training
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from jaxkit import mesa


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    dim: int = common.option(5, "dimension of the tokens")
    length: int = common.option(24, "tokens per sequence", paper=100)
    count: int = common.option(512, "training and test sequences", paper=10_000)
    epochs: int = common.option(201, "the most full-batch steps")
    stratified: bool = common.option(True, "spread Gaussian tokens", paper=False)
    implementation: str = common.option(
        "quadratic", "form of linear attention", paper="parallel"
    )
    laws: tuple[str, ...] = common.option(
        tuple(law.slug for law in training.LAWS), "which laws to train on"
    )


def run(config: Config, law: training.Law) -> dict[str, Any]:
    """Trains on one law and computes what the theory says.

    Returns:
      Arrays by name; curves have shape `[points, 3]`.
    """
    sizes = {"count": config.count, "length": config.length, "dim": config.dim}
    key_train, key_test = jax.random.split(jax.random.key(config.seed))
    x = training.sample(key_train, law, stratified=config.stratified, **sizes)
    test = training.sample(key_test, law, stratified=config.stratified, **sizes)
    epochs, step_size = (
        min(law.epochs, config.epochs),
        law.step_size(length=config.length, dim=config.dim),
    )
    path = training.train_on_samples(
        config,
        law.slug,
        x,
        training.diagonal_starts(config.dim),
        optimizer=optax.sgd(step_size),
        epochs=epochs,
        implementation=config.implementation,
    )
    own = training.sample_descent(
        x[:, 0].real, length=config.length, step_size=step_size, epochs=epochs
    )
    return theory(config, law, epochs) | {
        "sampled": training.product(path),
        **measure(law, path, test),
        "own descent": own,
    }


@jax.enable_x64(True)
def theory(config: Config, law: training.Law, epochs: int) -> dict[str, Any]:
    """Computes limits, exact descent, exact flow and the metric that follows."""
    moments, step_size = (
        law.moments(config.dim),
        law.step_size(length=config.length, dim=config.dim),
    )
    c1, c2 = mesa.flow_constants(moments, length=config.length)
    a, b = training.population_descent(
        moments, length=config.length, step_size=step_size, epochs=epochs
    )
    times = step_size * jnp.arange(epochs + 1)
    starts = jnp.array(training.STARTS).T
    flow = mesa.reduced_flow_solution(starts[0], starts[1], c1, c2, times[:, None])
    limit = mesa.limit_product(moments, length=config.length)
    far = mesa.limit_product(moments, length=None)
    if law.name == "gaussian":
        metric = mesa.expected_ratio(moments, a * b)
        lines = [mesa.expected_ratio(moments, p) for p in (limit, far)]
    else:
        loss = {"moments": moments, "length": config.length, "dim": config.dim}
        metric, lines = mesa.diagonal_loss(a, b, **loss), [None, None]
    values = {
        "limit": limit,
        "infinite limit": far,
        "descent": a * b,
        "flow": flow[0] * flow[1],
        "metric theory": metric,
        "metric limit": lines[0],
        "metric infinite limit": lines[1],
    }
    return {name: None if x is None else np.asarray(x) for name, x in values.items()}


def measure(
    law: training.Law, path: mesa.LSAParams, test: jax.Array
) -> dict[str, np.ndarray]:
    """Evaluates the metric of the paper on test sequences, at some epochs."""
    last = path.kq.shape[0] - 1
    epochs = np.unique(np.linspace(0, last, min(last, 20) + 1).astype(int))
    function = training.ratio if law.name == "gaussian" else training.loss

    @jax.jit
    def evaluate(some: mesa.LSAParams) -> jax.Array:
        return jax.lax.map(jax.vmap(lambda params: function(params, test)), some)

    values = evaluate(jax.tree.map(lambda leaf: leaf[epochs], path))
    return {"metric": values, "metric epochs": epochs}


def report(results: dict[str, dict[str, Any]]) -> None:
    """Prints where the runs end and where the theory says they do."""
    rows = []
    for slug, r in results.items():
        for i, start in enumerate(training.STARTS):
            values = [r[k][-1, i] for k in ("sampled", "own descent", "descent")]
            name = slug.replace("_", " ") if i == 0 else ""
            metric = r["metric"][-1, i], r["metric theory"][-1, i]
            limits = r["limit"], r["infinite limit"]
            rows.append(
                [name, f"{start[0]:g}, {start[1]:g}", *values, *limits, *metric]
            )
    common.print_table(
        "Product ab after training, and the paper's metric on test sequences",
        [
            "law",
            "start a, b",
            "sampled run",
            "exact, these tokens",
            "exact, population",
            "limit, this T",
            "limit, infinite T",
            "metric",
            "metric, theory",
        ],
        rows,
        caption="metric: ratio of prediction to truth (gaussian), test loss (sparse)",
    )


def draw(results: dict[str, dict[str, Any]], laws: list[training.Law]) -> Figure:
    """Draws product and metric of some laws."""
    names = " and ".join(dict.fromkeys(law.name for law in laws)).capitalize()
    figure, axes = plots.new_figure(
        f"{names} first token: training tends to the limit of its length",
        2,
        len(laws),
        width=4.3,
        height=3.0,
    )
    for column, law in enumerate(laws):
        r = results[law.slug]
        top, bottom = axes[:, column]
        for i, (a, b) in enumerate(training.STARTS):
            color = plots.COLORS[i]
            style = {"color": color, "linewidth": 1.0}
            top.plot(r["sampled"][:, i], color=color, label=f"sampled, ({a:g}, {b:g})")
            top.plot(r["descent"][:, i], linestyle="--", **style)
            top.plot(r["flow"][:, i], linestyle=":", **style)
            points = {"marker": "o", "linestyle": "none", "markersize": 3}
            bottom.plot(r["metric epochs"], r["metric"][:, i], color=color, **points)
            bottom.plot(r["metric theory"][:, i], linestyle="--", **style)
        _lines(top, r["limit"], r["infinite limit"])
        metric = "ratio of prediction to truth"
        if law.name == "gaussian":
            _lines(bottom, r["metric limit"], r["metric infinite limit"])
            top.set_yscale("log")
        else:
            bottom.set_ylim(bottom=1e-7)
            metric = "test loss (sum over time)"
        bottom.set_yscale("log")
        plots.label(top, title=law.symbol, x="", y="product ab")
        plots.label(bottom, title="", x="epoch", y=metric)
    top = axes[0, 0]
    top.plot([], [], "k--", linewidth=1.0, label="exact population descent")
    top.plot([], [], "k:", linewidth=1.0, label="closed-form flow")
    plots.legend(top)
    bottom = axes[1, 0]
    bottom.plot([], [], "ko", markersize=3, label="test sequences")
    bottom.plot([], [], "k--", linewidth=1.0, label="exact population descent")
    plots.legend(bottom)
    return figure


def _lines(ax: Any, limit: jax.Array, infinite: jax.Array) -> None:
    ax.axhline(limit, color="0.25", linewidth=1.2, label="limit at this length")
    style = {"color": "0.55", "linewidth": 1.2, "linestyle": (0, (6, 3))}
    ax.axhline(infinite, label="limit at infinite length", **style)


def main(config: Config) -> dict[str, float]:
    """Trains on every law and returns where the products end."""
    laws = [law for law in training.LAWS if law.slug in config.laws]
    if not laws:
        known = ", ".join(law.slug for law in training.LAWS)
        raise ValueError(f"`laws` must name some of {known}, got {config.laws}.")
    results = {law.slug: run(config, law) for law in laws}
    report(results)
    measured = {}
    for slug, r in results.items():
        for key in ("limit", "infinite limit"):
            measured[f"{slug}/{key}"] = float(r[key])
        for key in ("sampled", "own descent", "descent", "flow", "metric"):
            for i in range(len(training.STARTS)):
                measured[f"{slug}/{key}/start {i}"] = float(r[key][-1, i])
    common.save_json(config, "mesa_gradient_flow", measured)
    for name in ("gaussian", "sparse"):
        family = [law for law in laws if law.name == name]
        if family:
            figure = draw(results, family)
            common.save_figure(config, f"mesa_gradient_flow_{name}", figure)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
