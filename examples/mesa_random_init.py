"""Random starts: the diagonal structure emerges, with a sign per coordinate.

Paper: Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
NeurIPS 2024, figures 5 and 6: all six blocks start from N(0, s^2) with s = 0.001,
0.01, 0.1; Gaussian tokens with standard deviation 1 and sparse tokens of size 1.

Beyond the paper the exact flow of A and B on the population loss is followed to its
end. For Gaussian tokens it ends at A = diag(+-alpha), B = diag(+-beta), the signs of
one coordinate being equal, with one and the same product for all coordinates: the
unequal diagonals of the paper's figure are an effect of finite time. For sparse
tokens the off-diagonal entries of A have exactly zero gradient, so they keep their
start, which does no harm: no sequence reads them.

Time is counted in units of 1 / c2, the time scale of the reduced flow.

Command: python examples/mesa_random_init.py --output outputs/random
Time: about 20 seconds on two CPU cores.
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

LAWS = {law.name: law for law in training.LAWS if law.scale == 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    dim: int = common.option(5, "dimension of the tokens")
    length: int = common.option(24, "tokens per sequence", paper=100)
    count: int = common.option(512, "training and test sequences", paper=10_000)
    epochs: int = common.option(240, "full-batch steps", paper=480)
    rate: float = common.option(0.05, "step size in units of 1 / c2", paper=0.025)
    horizon: float = common.option(50.0, "end of the exact flow in units of 1 / c2")
    stddevs: tuple[float, ...] = common.option(
        (0.001, 0.01, 0.1), "standard deviations of the start"
    )
    laws: tuple[str, ...] = common.option(("gaussian", "sparse"), "laws of the token")
    implementation: str = common.option(
        "quadratic", "form of linear attention", paper="parallel"
    )


def random_starts(config: Config, dtype: Any = jnp.float32) -> mesa.LSAParams:
    """Draws one start and scales it, so that only the size differs."""
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    start = mesa.init_gaussian(key, config.dim, stddev=1.0)
    scales = jnp.asarray(config.stddevs, dtype)[:, None, None]
    return jax.tree.map(lambda leaf: scales * leaf.astype(dtype)[None], start)


@jax.enable_x64(True)
def exact_flow(config: Config, law: training.Law) -> dict[str, np.ndarray]:
    """Follows A and B on the population loss, in float64.

    Returns:
      The `times` in units of 1 / c2, shape `[points]`, the `products` of the diagonal
      entries and the `signs`, shape `[starts, points, dim]`, and the largest
      off-diagonal entries of A and B, shape `[starts, points]`.
    """
    moments = law.moments(config.dim)
    c1, c2 = mesa.flow_constants(moments, length=config.length)
    times = np.linspace(0.0, config.horizon, 101)
    starts = random_starts(config, jnp.float64)
    path = follow(starts, moments, times / float(c2), length=config.length)
    a, b = (np.asarray(x) for x in path)
    diagonals = [np.diagonal(x, axis1=-2, axis2=-1) for x in (a, b)]
    return {
        "times": times,
        "products": diagonals[0] * diagonals[1],
        "signs": np.sign(diagonals[0]),
        "off A": largest_off_diagonal(a),
        "off B": largest_off_diagonal(b),
        "limit": np.asarray(c2 / c1),
    }


@jax.jit(static_argnames="length")
def follow(
    starts: mesa.LSAParams, moments: mesa.Moments, times: jax.Array, *, length: int
) -> tuple[jax.Array, jax.Array]:
    """Follows the exact gradient flow of A and B from each start."""

    def loss_fn(ab: tuple[jax.Array, jax.Array]) -> jax.Array:
        return mesa.population_loss(*ab, moments, length=length)

    def one(start: mesa.LSAParams) -> tuple[jax.Array, jax.Array]:
        begin = training.blocks(start)
        return mesa.gradient_flow(loss_fn, begin, times, substeps=10).params

    return jax.vmap(one)(starts)


def largest_off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Gives the largest off-diagonal modulus of each matrix."""
    outside = ~np.eye(matrix.shape[-1], dtype=bool)
    return np.max(np.abs(matrix[..., outside]), axis=-1)


def sampled_run(config: Config, law: training.Law) -> dict[str, Any]:
    """Trains all blocks on sequences.

    Returns:
      The last `params` with a leading axis of starts, the mean `product` after each
      epoch and the `metric` of the paper on test sequences.
    """
    key_train, key_test = jax.random.split(jax.random.key(config.seed))
    sizes = {"count": config.count, "length": config.length, "dim": config.dim}
    x = training.sample(key_train, law, stratified=True, **sizes)
    test = training.sample(key_test, law, stratified=True, **sizes)
    _, c2 = mesa.flow_constants(law.moments(config.dim), length=config.length)
    path = training.train_on_samples(
        config,
        f"random_{law.name}",
        x,
        random_starts(config),
        optimizer=optax.sgd(config.rate / float(c2)),
        epochs=config.epochs,
        implementation=config.implementation,
    )
    last = jax.tree.map(lambda leaf: np.asarray(leaf[-1]), path)
    metric = training.ratio if law.name == "gaussian" else training.loss
    evaluate = jax.jit(jax.vmap(metric, in_axes=(0, None)))
    return {
        "params": last,
        "product": np.asarray(training.product(path)),
        "metric": np.asarray(evaluate(last, test)),
    }


def share_outside(params: mesa.LSAParams) -> np.ndarray:
    """Gives the share of the squared norm that is not on the two diagonals."""
    diagonals = _diagonals(params)
    kept = sum(np.sum(x**2, axis=-1) for x in diagonals)
    whole = sum(np.sum(np.square(leaf), axis=(-2, -1)) for leaf in params)
    return 1.0 - kept / whole


def equal_signs(params: mesa.LSAParams) -> np.ndarray:
    """Counts the coordinates whose two diagonal entries have one sign."""
    a, b = _diagonals(params)
    return np.sum(a * b > 0, axis=-1)


def _diagonals(params: mesa.LSAParams) -> list[np.ndarray]:
    blocks = training.blocks(jax.tree.map(np.asarray, params))
    return [np.diagonal(x, axis1=-2, axis2=-1) for x in blocks]


def draw_matrices(config: Config, law: training.Law, run: dict) -> Figure:
    """Shows both matrices after training on sequences."""
    figure, axes = plots.new_figure(
        f"{law.symbol}: KQ and PV after training from N(0, s\u00b2) in all blocks",
        *(2, len(config.stddevs)),
        width=3.5,
        height=2.6,
        heights=(1.9, 1.0),
    )
    for column, stddev in enumerate(config.stddevs):
        kq, pv = (leaf[column] for leaf in run["params"])
        title = f"s = {stddev:g}"
        plots.heat_map(axes[0, column], kq, title=f"KQ, {title}", split=True)
        plots.heat_map(axes[1, column], pv, title=f"PV, {title}", split=True)
    return figure


def draw_curves(config: Config, flows: dict, runs: dict) -> Figure:
    """Draws the products of the coordinates and the decay of the rest.

    Laws without an entry in `runs` are shown without their sampled run.
    """
    figure, axes = plots.new_figure(
        "Random start: every coordinate reaches the same product",
        *(2, len(flows)),
        width=5.0,
        height=3.1,
    )
    for column, (name, flow) in enumerate(flows.items()):
        top, bottom = axes[:, column]
        for i, stddev in enumerate(config.stddevs):
            color = plots.COLORS[i]
            lines = top.plot(flow["times"], flow["products"][i], color=color, lw=0.9)
            lines[0].set_label(f"coordinates, exact flow, s = {stddev:g}")
            if name in runs:
                sampled = runs[name]["product"][:, i]
                epochs = config.rate * np.arange(len(sampled))
                top.plot(epochs, sampled, color=color, linestyle=":", linewidth=2.0)
            bottom.plot(flow["times"], flow["off A"][i], color=color)
            bottom.plot(flow["times"], flow["off B"][i], color=color, linestyle="--")
        top.axhline(flow["limit"], color="0.25", linewidth=1.0, label="limit c2 / c1")
        if name in runs:
            top.plot([], [], "k:", linewidth=2.0, label="mean, sampled run")
        top.set_xlim(0.0, min(20.0, config.horizon))
        bottom.set_yscale("log")
        bottom.set_ylim(bottom=1e-8)
        bottom.plot([], [], "k-", label="A")
        bottom.plot([], [], "k--", label="B")
        x = "time in units of 1 / c2"
        plots.label(top, title=LAWS[name].symbol, x=x, y="product of diagonal entries")
        plots.label(bottom, title="", x=x, y="largest off-diagonal entry")
        plots.legend(top)
        plots.legend(bottom)
    return figure


def report(config: Config, law: training.Law, flow: dict, run: dict) -> dict:
    """Prints and returns the numbers of one law."""
    now = int(np.searchsorted(flow["times"], config.rate * config.epochs))
    now = min(now, len(flow["times"]) - 1)
    rows, measured = [], {f"{law.name}/limit": float(flow["limit"])}
    spread = np.ptp(flow["products"], axis=-1)
    for i, stddev in enumerate(config.stddevs):
        last = jax.tree.map(lambda leaf, i=i: leaf[i], run["params"])
        values = {
            "exact product": float(np.mean(flow["products"][i, -1])),
            "spread": float(spread[i, now]),
            "final spread": float(spread[i, -1]),
            "off A": float(flow["off A"][i, -1] / flow["off A"][i, 0]),
            "off B": float(flow["off B"][i, -1] / flow["off B"][i, 0]),
            "sampled product": float(run["product"][-1, i]),
            "metric": float(run["metric"][i]),
            "outside": float(share_outside(last)),
            "equal signs": int(equal_signs(last)),
        }
        rows.append([f"{stddev:g}", *values.values()])
        measured |= {f"{law.name}/{stddev:g}/{k}": float(v) for k, v in values.items()}
    metric = "ratio" if law.name == "gaussian" else "test loss"
    common.print_table(
        f"{law.symbol}, limit {float(flow['limit']):.6f}: exact flow of A and B, then "
        "the sampled run of all blocks",
        [
            "s",
            "product",
            "spread, time of run",
            "spread, end",
            "off A, end / start",
            "off B, end / start",
            "sampled: product",
            metric,
            "norm\u00b2 off diagonals",
            "equal signs",
        ],
        rows,
        caption="spread: largest minus smallest product of a coordinate",
    )
    return measured


def main(config: Config) -> dict[str, float]:
    """Follows the exact flow and trains on sequences for each law."""
    flows, runs, measured = {}, {}, {}
    for name in config.laws:
        law = LAWS[name]
        flows[name], runs[name] = exact_flow(config, law), sampled_run(config, law)
        measured |= report(config, law, flows[name], runs[name])
        figure = draw_matrices(config, law, runs[name])
        common.save_figure(config, f"mesa_random_init_{name}", figure)
    common.save_figure(
        config, "mesa_random_init_curves", draw_curves(config, flows, runs)
    )
    common.save_json(config, "mesa_random_init", measured)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
