"""Order search on graphs of a thousand nodes.

Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, poses the
problem; a loop over regressions stops at about a hundred nodes. Here every step scores
all insertions of an order from one Cholesky factor and its inverse, and its cost does
not depend on the number of samples. A step that factors anew costs O(d^3); on a CPU
from 128 nodes on, the factors are carried from step to step by reflections, in O(d^2).

Random graphs with two edges per node, noise of equal variance, ten samples per node and
at least 1000. "eqvar" is the start alone; the search goes on from there. The gap is that
of the loss to the true order's, SHD counts edges at |W| >= 0.3. "against factoring" is
what factoring anew at every step would take at least, over the time taken: the flops of
the factor and of the inverse of a triangular matrix, at the rate of a large matrix
product on this machine. Above 1 the reflections have won what no factoring could.

Command: python examples/dag_scale.py --output outputs/dag
Time: under two minutes on two CPU cores, compilation included.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from jaxkit import dag


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    sizes: tuple[int, ...] = common.option(
        (100, 300, 1000), "numbers of nodes", paper=(100, 500, 1000, 2000)
    )
    samples_per_node: int = common.option(10, "rows of data per node")
    degree: int = common.option(2, "edges per node")
    restarts: int = common.option(0, "random starts at the smallest size", paper=256)


def timed(function: Callable, *args: Any) -> tuple[Any, float, float]:
    """Runs a function; gives its result, the seconds, and those of compiling it."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    middle = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    return result, time.perf_counter() - middle, middle - start


def flop_rate() -> float:
    """Operations per second of a large matrix product in double precision."""
    size = 1024
    square = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(product(square, square))
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)


def run_size(key: jax.Array, size: int, rate: float, config: Config) -> dict[str, Any]:
    """Samples one graph, orders it, and measures order and time."""
    keys = jax.random.split(key, 3)
    edges = dag.sample_er_dag(keys[0], size, edges_per_node=config.degree)
    weights = dag.sample_edge_weights(keys[1], edges)
    rows = max(1000, config.samples_per_node * size)
    x = dag.sample_linear_sem(keys[2], weights, rows)
    stats = dag.gram_stats(x)
    true_loss = float(dag.order_loss(stats, dag.topological_order(edges)))
    order, begin_seconds, begin_compile = timed(dag.eqvar_order, stats)
    found, seconds, compile_seconds = timed(dag.topo_search, stats, order)

    def distance(weights: jax.Array) -> int:
        kept = dag.threshold_to_dag(weights) != 0
        return int(dag.count_accuracy(kept, edges).shd)

    steps = int(found.num_steps) + 1
    return {
        "nodes": size,
        "rows": rows,
        "edges": int(edges.sum()),
        "eqvar SHD": distance(dag.ols_given_order(stats, order)),
        "SHD": distance(found.weights),
        "gap": float(found.loss) / true_loss - 1.0,
        "steps": steps - 1,
        "seconds": begin_seconds + seconds,
        "compile seconds": begin_compile + compile_seconds,
        "against factoring": 2.0 * size**3 / 3.0 * steps / rate / seconds,
    }


def run_restarts(key: jax.Array, size: int, config: Config) -> dict[str, float]:
    """Searches one graph from many random orders at once."""
    keys = jax.random.split(key, 4)
    edges = dag.sample_er_dag(keys[0], size, edges_per_node=config.degree)
    weights = dag.sample_edge_weights(keys[1], edges)
    stats = dag.gram_stats(dag.sample_linear_sem(keys[2], weights, 1000))
    search = lambda key, stats: dag.topo_search_restarts(key, stats, config.restarts)
    found, seconds, _ = timed(search, keys[3], stats)
    best = float(found.best.loss)
    reached = jnp.mean(found.losses <= best * (1.0 + 1e-6))
    return {"seconds": seconds, "best": best, "share at the best": float(reached)}


def draw(results: list[dict[str, Any]]) -> Figure:
    """Draws time and distance against the number of nodes."""
    figure, axes = plots.new_figure("Order search at scale", 1, 2)
    sizes = [row["nodes"] for row in results]
    time_axis, distance_axis = axes[0]
    time_axis.loglog(sizes, [row["seconds"] for row in results], "o-", label="search")
    time_axis.loglog(
        sizes, [row["compile seconds"] for row in results], "o:", label="compiling"
    )
    for name in ("eqvar SHD", "SHD"):
        distance_axis.semilogx(sizes, [row[name] for row in results], "o-", label=name)
    plots.label(time_axis, title="time", x="nodes", y="seconds")
    plots.label(distance_axis, title="wrong edges", x="nodes", y="SHD")
    for ax in axes[0]:
        plots.legend(ax)
    return figure


def main(config: Config) -> dict[str, float]:
    """Runs every size and returns what was found."""
    keys = jax.random.split(jax.random.key(config.seed), len(config.sizes) + 1)
    results, measured = [], {}
    with jax.enable_x64(True), common.progress("sizes", len(config.sizes)) as advance:
        rate = flop_rate()
        for key, size in zip(keys, config.sizes, strict=False):
            results.append(run_size(key, size, rate, config))
            advance(1)
        if config.restarts:
            more = run_restarts(keys[-1], min(config.sizes), config)
            measured |= {f"restarts/{name}": value for name, value in more.items()}
    common.print_table(
        "eqvar, then insertions, in double precision",
        list(results[0]),
        [
            [f"{v:.3g}" if isinstance(v, float) else v for v in row.values()]
            for row in results
        ],
    )
    for row in results:
        for name, value in row.items():
            measured[f"d={row['nodes']}/{name}"] = float(value)
    common.save_json(config, "dag_scale", measured)
    if config.output is not None:
        common.save_figure(config, "dag_scale", draw(results))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
