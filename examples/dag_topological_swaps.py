"""Searching topological orders: swaps as published, and insertions.

Paper: Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, in
its setting: random graphs with k edges per node (ER: pairs drawn evenly, SF: preferential
attachment), weights of size 0.5 to 2 and either sign, noise of equal variance, 1000
samples, edges kept where |W| >= 0.3.

The rows of a cell see the same graphs. "swaps, as published" is the algorithm of the
paper with its automatic set sizes; "insertions" takes one node out and puts it back
elsewhere, all such moves scored from one Cholesky factor and a best set of disjoint
ones made at once. Both begin at the same random order. "eqvar" picks the node of the
least remaining variance again and again; "variance sort" orders the raw variances.

The loss gap is relative to the least squares of the true order; it is negative where
the search fits the sample better than the truth does, which more search will not turn
into a better graph. Time is per graph and relative to insertions from the same start,
compilation left out.

How to read the numbers: data simulated this way tell the order by their variances
alone, as sortability near 1 says, so a low SHD is no proof of skill. The second table
takes the scale away: least squares on standardized columns is confidently wrong.

Command: python examples/dag_topological_swaps.py --output outputs/dag
Time: about a minute on two CPU cores, most of it compilation.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxkit import dag

SAMPLERS = {"ER": dag.sample_er_dag, "SF": dag.sample_sf_dag}
PAPER = "swaps, as published"
INSERTIONS = "insertions"
FROM_EQVAR = "eqvar, then insertions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    graphs: tuple[str, ...] = common.option(
        ("ER2", "ER4", "SF4"), "kind of graph and edges per node"
    )
    sizes: tuple[int, ...] = common.option(
        (10, 20, 50), "numbers of nodes", paper=(10, 20, 50, 100)
    )
    num_graphs: int = common.option(10, "graphs per cell", paper=30)
    num_samples: int = common.option(1000, "rows of data per graph")
    noise: str = common.option("gaussian", "gaussian, exponential, gumbel or uniform")
    threshold: float = common.option(0.3, "smallest weight of an edge")


class Problems(NamedTuple):
    """Graphs with the moments of their data; every leaf has a leading axis of graphs."""

    edges: jax.Array
    raw: dag.GramStats
    standardized: dag.GramStats
    true_order: jax.Array
    random_order: jax.Array


class Outcome(NamedTuple):
    """What a method found on each graph."""

    loss: jax.Array
    shd: jax.Array
    num_steps: jax.Array


def sample_problems(
    key: jax.Array, kind: str, degree: int, size: int, config: Config
) -> Problems:
    """Draws the graphs of one cell and reduces their data to moments."""

    def one(key: jax.Array) -> Problems:
        keys = jax.random.split(key, 4)
        edges = SAMPLERS[kind](keys[0], size, edges_per_node=degree)
        weights = dag.sample_edge_weights(keys[1], edges)
        x = dag.sample_linear_sem(
            keys[2], weights, config.num_samples, noise=config.noise
        )
        return Problems(
            edges=edges,
            raw=dag.gram_stats(x),
            standardized=dag.gram_stats(x / jnp.std(x, axis=0)[None, :]),
            true_order=dag.topological_order(edges),
            random_order=dag.sample_order(keys[3], size),
        )

    return jax.jit(jax.vmap(one))(jax.random.split(key, config.num_graphs))


def _at_order(stats: dag.GramStats, order: jax.Array) -> dag.TopoResult:
    """An order as the result of a search that makes no step."""
    loss, weights = dag.order_loss(stats, order), dag.ols_given_order(stats, order)
    none = jnp.zeros((), jnp.int32)
    return dag.TopoResult(order, loss, weights, none, jnp.asarray(True), loss[None])


Search = Callable[[dag.GramStats, jax.Array], dag.TopoResult]
METHODS: dict[str, Search] = {
    PAPER: dag.topo_paper,
    "swaps, all pairs": lambda stats, order: dag.topo_search(
        stats, order, dag.TopoConfig(moves="swap")
    ),
    INSERTIONS: dag.topo_search,
    FROM_EQVAR: lambda stats, order: dag.topo_search(stats, dag.eqvar_order(stats)),
    "eqvar": lambda stats, order: _at_order(stats, dag.eqvar_order(stats)),
    "variance sort": lambda stats, order: _at_order(stats, dag.variance_order(stats)),
}
"""The rows: from moments and a random order to a result."""


Program = Callable[[Problems, dag.GramStats], Outcome]


def compile_methods(config: Config) -> dict[str, Program]:
    """Makes one program of each method; graphs of one size share what it compiles to."""

    def program(search: Search) -> Program:
        def run(problem: Problems, stats: dag.GramStats) -> Outcome:
            found = search(stats, problem.random_order)
            kept = dag.threshold_to_dag(found.weights, threshold=config.threshold) != 0
            shd = dag.count_accuracy(kept, problem.edges).shd
            return Outcome(found.loss, shd, found.num_steps)

        return jax.jit(jax.vmap(run))

    return {name: program(search) for name, search in METHODS.items()}


def seconds_of(program: Program, problems: Problems) -> float:
    """The shortest of five runs of a program that has been compiled."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(program(problems, problems.raw))
        times.append(time.perf_counter() - start)
    return min(times)


def run_cell(
    key: jax.Array,
    name: str,
    size: int,
    programs: dict[str, Program],
    config: Config,
) -> dict[str, dict[str, np.ndarray]]:
    """Runs every method on one kind and size of graph."""
    kind, degree = name[:2], int(name[2:])
    problems = sample_problems(key, kind, degree, size, config)
    truth = np.asarray(jax.vmap(dag.order_loss)(problems.raw, problems.true_order))
    cell = {}
    for method, program in programs.items():
        outcome = jax.tree.map(np.asarray, program(problems, problems.raw))
        cell[method] = {
            "gap": outcome.loss / truth - 1.0,
            "loss": outcome.loss,
            "shd": outcome.shd,
            "steps": outcome.num_steps,
        }
    seconds = {
        name: seconds_of(program, problems) for name, program in programs.items()
    }
    for method, row in cell.items():
        row["time"] = np.asarray(seconds[method] / seconds[INSERTIONS])
    scaled = programs[FROM_EQVAR](problems, problems.standardized)
    var_sort, r2_sort = (
        np.asarray(jax.vmap(measure)(problems.raw, problems.edges))
        for measure in (dag.var_sortability, dag.r2_sortability)
    )
    cell["scale"] = {
        "raw": cell[FROM_EQVAR]["shd"],
        "standardized": np.asarray(scaled.shd),
        "edges": np.asarray(problems.edges.sum(axis=(1, 2))),
        "var_sortability": var_sort,
        "r2_sortability": r2_sort,
    }
    return cell


def report(
    config: Config, cells: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]]
) -> None:
    """Prints the methods cell by cell, and what standardizing does."""
    rows: list[list[Any]] = []
    for (name, size), cell in cells.items():
        for method in METHODS:
            row = cell[method]
            rows.append(
                [
                    f"{name}, d={size}" if method == PAPER else "",
                    method,
                    f"{row['gap'].mean():+.2e}",
                    f"{row['gap'].max():+.2e}",
                    f"{row['shd'].mean():.1f}",
                    f"{row['steps'].mean():.1f}",
                    f"{float(row['time']):.2f}",
                ]
            )
    common.print_table(
        f"{config.num_graphs} graphs per cell, n={config.num_samples}, {config.noise}",
        ["graphs", "method", "loss gap", "largest", "SHD", "steps", "time"],
        rows,
        caption="gap: to the true order; time: relative to insertions",
    )
    common.print_table(
        "The same data on one scale: SHD of eqvar, then insertions",
        ["graphs", "edges", "raw", "standardized", "var-sortable", "R2-sortable"],
        [
            [f"{name}, d={size}", *(f"{x.mean():.2f}" for x in _scale_row(cell))]
            for (name, size), cell in cells.items()
        ],
        caption="sortability: share of paths along which the quantity grows",
    )


def _scale_row(cell: dict[str, dict[str, np.ndarray]]) -> list[np.ndarray]:
    names = ("edges", "raw", "standardized", "var_sortability", "r2_sortability")
    return [cell["scale"][name] for name in names]


def draw(
    config: Config, cells: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]]
) -> Figure:
    """Draws loss gap, SHD and time against the number of nodes."""
    figure, axes = plots.new_figure(
        "Insertions reach the loss of the true order, swaps stall",
        len(config.graphs),
        3,
        height=2.6,
    )
    for row, name in zip(axes, config.graphs, strict=True):
        for method, color in zip(METHODS, plots.COLORS, strict=False):
            values = [cells[name, size][method] for size in config.sizes]
            curves = (
                [max(v["gap"].mean(), 1e-7) for v in values],
                [v["shd"].mean() + 0.1 for v in values],
                [float(v["time"]) for v in values],
            )
            for ax, curve in zip(row, curves, strict=True):
                ax.loglog(config.sizes, curve, "o-", color=color, label=method)
        plots.label(row[0], title=name, x="nodes", y="loss gap (at least 1e-7)")
        plots.label(row[1], title=name, x="nodes", y="SHD + 0.1")
        plots.label(row[2], title=name, x="nodes", y="time / insertions")
    plots.legend(axes[0, 0])
    return figure


def main(config: Config) -> dict[str, float]:
    """Runs every cell and returns its means."""
    keys = iter(
        jax.random.split(
            jax.random.key(config.seed), len(config.graphs) * len(config.sizes)
        )
    )
    cells, programs = {}, compile_methods(config)
    with jax.enable_x64(True), warnings.catch_warnings():
        # Standardized columns are fed to least squares on purpose.
        warnings.simplefilter("ignore", category=UserWarning)
        total = len(config.graphs) * len(config.sizes)
        with common.progress("cells", total) as advance:
            for name in config.graphs:
                for size in config.sizes:
                    cells[name, size] = run_cell(
                        next(keys), name, size, programs, config
                    )
                    advance(1)
    report(config, cells)
    measured = {
        f"{name} d={size}/{method}/{quantity}": float(np.mean(values))
        for (name, size), cell in cells.items()
        for method, row in cell.items()
        for quantity, values in row.items()
    }
    common.save_json(config, "dag_topological_swaps", measured)
    if config.output is not None:
        common.save_figure(config, "dag_topological_swaps", draw(config, cells))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
