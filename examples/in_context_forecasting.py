"""Forecasts real series from context alone: one learned step against the mesa layer.

Data: monthly sea-surface temperatures off Peru, 1950-2010 (`elnino`), and eight
quarterly series of the United States economy, 1959-2009 (`macrodata`), both part of
statsmodels and read without network.

A token holds the last `p` values and a constant, so that "regress the next value on
the token before it" is an AR(p) regression. Every in-context learner gets the last
`n` such pairs and nothing else of the series, and forecasts the next value:

- one-step layer: the layer of Zheng et al., *On Mesa-Optimization in
  Autoregressively Trained Transformers*, NeurIPS 2024, trained on windows of the
  training part;
- mesa layer: ridge regression on the pairs (von Oswald et al., *Uncovering
  mesa-optimization algorithms in Transformers*, 2023);
- delta rule: one normalized gradient step per pair;
- least squares on the pairs.

The baselines know the training part (AR(p) fitted once) or one old value
(persistence, seasonal naive). The split is ordered in time; means, scales and
weights come from the training part, ridge and step size and the stopping time from
the validation part; the test part serves the reported errors only. The theory of the
paper is about complex unitary dynamics and does not cover this: the numbers here are
measurements.

How to read them: on the temperatures the mesa layer and plain least squares are best
from three pairs; near as many pairs as weights (13) least squares breaks down and the
ridge, one for all contexts, is too small to prevent a bump. With 96 pairs the trained
layer is about as good as the regression fitted once on the training part; its lead
over the mesa layer is 1.4 standard errors, that of the regression 2. On the quarterly
series, with 48 pairs, no in-context learner differs from the mesa layer by much more
than two standard errors; eleven blocks of a year, with a crisis in them, do not decide
it. All have a lower error there than persistence and the training mean.

Command: python examples/in_context_forecasting.py --output outputs/forecasting
Figure: squared error against the number of pairs in context.
Time: about half a minute on two CPU cores.
"""

import dataclasses
from collections.abc import Callable

import _common as common
import _plots as plots
import _series as series
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _series import Task
from matplotlib.figure import Figure

from jaxkit import mesa, ops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    epochs: int = common.option(400, "steps of Adam on all windows", paper=5000)
    learning_rate: float = common.option(3e-3, "step size of Adam")
    data: tuple[str, ...] = common.option(("elnino", "macrodata"), "the data sets")
    longest: int = common.option(96, "the most pairs in context")
    grid: int = common.option(13, "how many ridges and step sizes to try")


def one_step_layer(tokens: jax.Array, params: mesa.LSAParams) -> jax.Array:
    """Forecasts with one layer of linear self-attention."""
    return mesa.lsa_predict(params, tokens)[..., 0]


def pairs(tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits tokens into the queries, keys and values of a layer with one head."""
    query = tokens[..., 1:-1, None, :]
    return query, tokens[..., :-2, None, :], query[..., :1]


@jax.jit
def mesa_layer(tokens: jax.Array, ridge: jax.Array) -> jax.Array:
    """Forecasts with the ridge regression of all pairs so far."""
    return ops.mesa_attention(*pairs(tokens), ridge=ridge, solver="solve")[..., 0, 0]


@jax.jit
def delta_layer(tokens: jax.Array, step_size: jax.Array) -> jax.Array:
    """Forecasts after one normalized gradient step per pair."""
    query, key, value = pairs(tokens)
    beta = step_size / jnp.sum(key**2, axis=-1)
    return ops.delta_rule(query, key, value, beta)[..., 0, 0]


def train_layer(config: Config, name: str, task: Task) -> mesa.LSAParams:
    """Trains the layer on the training part; keeps the best step on validation."""
    length = task.longest + 2
    inside = series.make_windows(
        task, task.lags - 1, task.train - length + 1, length
    ).tokens
    windows = series.windows_before(task, task.train, task.valid)
    goal = series.targets(task, task.train, task.valid)
    optimizer = optax.adam(config.learning_rate)

    def loss_fn(params: mesa.LSAParams) -> jax.Array:
        return jnp.mean((one_step_layer(inside, params) - inside[..., 2:, 0]) ** 2)

    def valid_loss(params: mesa.LSAParams) -> jax.Array:
        forecasts = one_step_layer(windows.tokens, params)
        forecasts = series.by_context(windows, forecasts, task.train, task.valid)
        return jnp.mean((forecasts - goal) ** 2)

    def step(state: tuple) -> tuple[tuple, jax.Array]:
        params, memory, best, lowest = state
        now = valid_loss(params)
        best = jax.tree.map(lambda a, b: jnp.where(now < lowest, a, b), params, best)
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, memory = optimizer.update(grads, memory, params)
        params = optax.apply_updates(params, updates)
        return (params, memory, best, jnp.minimum(now, lowest)), loss

    params = mesa.init_diagonal(task.lags + 1, a=0.2, b=0.2)
    state, _ = common.train(
        step,
        (params, optimizer.init(params), params, jnp.asarray(jnp.inf)),
        num_steps=config.epochs,
        checkpoints=common.Checkpoints(config, name),
        block=config.block,
        label=f"train the layer on {name}",
    )
    return state[2]


def choose(layer: Callable, task: Task, grid: np.ndarray) -> float:
    """Picks the value with the lowest validation error over all contexts."""
    windows = series.windows_before(task, task.train, task.valid)
    goal = series.targets(task, task.train, task.valid)

    def error(value: float) -> float:
        forecasts = layer(windows.tokens, jnp.float32(value))
        forecasts = series.by_context(windows, forecasts, task.train, task.valid)
        return float(jnp.mean((forecasts - goal) ** 2))

    return float(min(grid, key=error))


def forecast(config: Config, name: str, task: Task) -> tuple[dict, dict]:
    """Forecasts the test part with every method.

    Returns:
      The forecasts by method, shape `[num_series, num_targets, num_contexts]` (one
      context for a method that uses none), and the chosen numbers.
    """
    first, stop = task.valid, task.end
    windows = series.windows_before(task, first, stop)
    ridge = choose(mesa_layer, task, np.logspace(-2, 3, config.grid))
    step_size = choose(delta_layer, task, np.linspace(0.1, 1.9, config.grid))
    params = train_layer(config, name, task)
    layers = {
        "one-step layer": one_step_layer(windows.tokens, params),
        "mesa layer": mesa_layer(windows.tokens, jnp.float32(ridge)),
        "delta rule": delta_layer(windows.tokens, jnp.float32(step_size)),
    }
    columns = [n - 1 for n in task.contexts]
    out = {
        method: np.asarray(series.by_context(windows, value, first, stop))[..., columns]
        for method, value in layers.items()
    }
    fits = [series.refit(task, first, stop, context=n) for n in task.contexts]
    out["least squares"] = np.stack(fits, axis=-1)
    values = task.values
    out["AR(p) fitted once"] = series.fit_once(task, first, stop)[..., None]
    out["persistence"] = values[:, first - 1 : stop - 1, None]
    if task.season:
        lagged = slice(first - task.season, stop - task.season)
        out["seasonal naive"] = values[:, lagged, None]
    out["training mean"] = np.zeros_like(out["persistence"])
    exact = series.refit(task, first, stop, context=task.longest, ridge=ridge)
    gap = float(np.max(np.abs(exact - out["mesa layer"][..., -1])))
    return out, {"ridge": ridge, "step size": step_size, "mesa against refit": gap}


def summarize(values: np.ndarray, block: int) -> list[tuple[float, float]]:
    """Averages over series and times, with the standard error over blocks of time.

    Neighboring errors are correlated, and so are the series at one time; blocks come
    nearer to independent draws.
    """
    by_time = values.mean(axis=0)
    count = by_time.shape[0] // block
    blocks = by_time[: count * block].reshape(count, block, -1).mean(axis=1)
    errors = blocks.std(axis=0, ddof=1) / np.sqrt(count)
    return list(zip(by_time.mean(axis=0).tolist(), errors.tolist(), strict=True))


def report(name: str, task: Task, errors: dict, chosen: dict) -> None:
    """Prints squared errors, and the paired differences from the mesa layer."""
    mesa_error = errors["mesa layer"][..., -1:]
    rows = []
    for method, values in errors.items():
        cells = [_concise(*x) for x in summarize(values, task.block)]
        blank = [""] * len(task.contexts)
        cells = [*blank, *cells] if len(cells) == 1 else [*cells, ""]
        (gap,) = summarize(values[..., -1:] - mesa_error, task.block)
        gap_cell = "" if method == "mesa layer" else _concise(*gap)
        rows.append([method, *cells, gap_cell])
    columns = [f"n = {n}" for n in task.contexts]
    common.print_table(
        f"{name}: squared error on the test part, in variances of the training part",
        ["method", *columns, "no context", "minus mesa"],
        rows,
        caption=f"n pairs in context, {task.lags} lags; ridge {chosen['ridge']:.3g} "
        f"and step size {chosen['step size']:.3g} from the validation part; in "
        f"parentheses the standard error of the last digits, over blocks of "
        f"{task.block} times; last column: paired difference from the mesa layer at "
        f"n = {task.longest}",
    )


def _concise(mean: float, error: float) -> str:
    return f"{mean:.3f}({1000 * error:.0f})"


def draw(results: dict[str, tuple[Task, dict]]) -> Figure:
    """Draws the error of each method against the number of pairs in context."""
    figure, axes = plots.new_figure(
        "One-step forecasts of real series from n pairs in context",
        1,
        len(results),
        width=5.4,
        height=4.2,
    )
    for ax, (name, (task, errors)) in zip(axes[0], results.items(), strict=True):
        lines = iter(("--", ":", "-.", (0, (1, 4))))
        colors = iter(plots.COLORS)
        for method, values in errors.items():
            points = np.array(summarize(values, task.block)).T
            if points.shape[1] == 1:
                style = {"linestyle": next(lines), "color": "0.35", "linewidth": 1.2}
                ax.axhline(points[0, 0], label=method, **style)
            else:
                color = next(colors)
                # Shifted a little, so that error bars stand beside each other.
                shift = 1.0 + 0.04 * (plots.COLORS.index(color) - 1.5)
                style = {"color": color, "marker": "o", "markersize": 3.5}
                places = shift * np.array(task.contexts)
                ax.errorbar(places, *points, capsize=2, label=method, **style)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(task.contexts, task.contexts)
        ax.set_xticks([], minor=True)
        plots.label(
            ax,
            title=f"{name}: {task.values.shape[0]} series, "
            f"{task.end - task.valid} test times, {task.lags} lags",
            x="pairs in context, n",
            y="squared error / training variance",
        )
        plots.legend(ax, ncols=2)
    return figure


def main(config: Config) -> dict[str, float]:
    """Forecasts every data set and returns the mean squared errors."""
    results, measured = {}, {}
    for name in config.data:
        task = series.LOADERS[name]()
        contexts = tuple(n for n in task.contexts if n <= config.longest)
        task = task._replace(contexts=contexts)
        forecasts, chosen = forecast(config, name, task)
        truth = task.values[:, task.valid :, None]
        errors = {method: (x - truth) ** 2 for method, x in forecasts.items()}
        report(name, task, errors, chosen)
        results[name] = (task, errors)
        measured |= {f"{name}/{key}": value for key, value in chosen.items()}
        for method, values in errors.items():
            for n, (mean, error) in zip(
                contexts, summarize(values, task.block), strict=False
            ):
                suffix = f"/{n}" if values.shape[-1] > 1 else ""
                measured[f"{name}/{method}{suffix}"] = mean
                measured[f"{name}/{method}{suffix}/standard error"] = error
    common.save_json(config, "in_context_forecasting", measured)
    common.save_figure(config, "in_context_forecasting", draw(results))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
