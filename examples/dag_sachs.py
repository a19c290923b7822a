"""Eleven proteins in one cell: what structure learning says about real data.

Data: Sachs et al., *Causal Protein-Signaling Networks Derived from Multiparameter
Single-Cell Data*, Science 2005: flow cytometry of 853 cells without intervention. Two
reference graphs are in use and not told apart in most papers: one of 17 edges (that of
the NOTEARS family) and one of 20. Every distance below names its graph.

The file is not part of this repository. `--data` takes any CSV with a header line of the
eleven names; the continuous data are in the public repository
cmu-phil/example-causal-datasets (real/sachs), whose first 853 rows are the ones meant.
Without it a linear model on the 17-edge graph stands in, and the output says so.

Four scales of the same numbers, since least squares depends on them: raw, standardized,
logarithms, standardized logarithms. For each the best order of all, by exact search over
subsets, and what insertions find from eqvar. The BIC search and the order search on
non-linear features with unequal variances do not depend on the scale of columns, though
they do on logarithms. Confidence is the share of resamples of the rows in which the
Markov class that the BIC search finds allows an edge.

How to read the numbers: a graph without edges has distance 17 and 20, so no method is
near either reference. On raw data sorting the variances does as well as the best order
of all, and on other scales least squares finds other graphs: the scale decides, not the
search. The most certain edges of the BIC search, raf - mek, erk - akt and pip2 - pip3,
are in both references; their directions often are not identified.

Command: python examples/dag_sachs.py --output outputs/sachs
Time: about a minute on two CPU cores.
"""

import csv
import dataclasses
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxkit import dag

NAMES = ("raf", "mek", "plc", "pip2", "pip3", "erk", "akt", "pka", "pkc", "p38", "jnk")
SHARED_EDGES = (
    "raf mek, mek erk, plc pip2, pip3 pip2, erk akt, pka raf, pka mek, pka erk, "
    "pka akt, pka p38, pka jnk, pkc raf, pkc mek, pkc pka, pkc p38, pkc jnk"
)
GRAPHS = {
    "17 edges": SHARED_EDGES + ", plc pip3",
    "20 edges": SHARED_EDGES + ", pip3 plc, pip3 akt, pip2 pkc, plc pkc",
}
"""The reference graphs, as `from to` pairs."""
BESIDE = Path(__file__).parents[2] / "shared" / "data" / "sachs_observational_853.csv"
"""Where the data are looked for if no path is given."""
NUM_ROWS = 853
THRESHOLD = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    data: Path | None = dataclasses.field(
        default=None, metadata={"help": "CSV file with the measurements"}
    )
    num_resamples: int = common.option(100, "resamples of the rows", paper=1000)
    num_restarts: int = common.option(8, "starts of the searches by BIC and features")


class Data(NamedTuple):
    """Measurements, `[n, 11]` in the order of `NAMES`, and what they are."""

    values: np.ndarray
    description: str


def reference_graphs() -> dict[str, np.ndarray]:
    """Gives the adjacency matrix of each reference graph."""
    graphs = {}
    for name, text in GRAPHS.items():
        graph = np.zeros((len(NAMES), len(NAMES)), bool)
        for pair in text.split(", "):
            start, end = (NAMES.index(protein) for protein in pair.split())
            graph[start, end] = True
        graphs[name] = graph
    return graphs


def load(path: Path | None, seed: int) -> Data:
    """Reads the measurements, or makes a stand-in where there are none.

    Raises:
      FileNotFoundError: if a path is given and there is no such file.
      ValueError: if the header lacks a protein or a measurement is not positive.
    """
    if path is None and not BESIDE.exists():
        return _stand_in(seed)
    file = path or BESIDE
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist; the data are in the public repository "
            "cmu-phil/example-causal-datasets, folder real/sachs."
        )
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))[:NUM_ROWS]
    missing = [name for name in NAMES if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)}.")
    values = np.array([[float(row[name]) for name in NAMES] for row in rows])
    if not np.all(values > 0.0):
        raise ValueError(f"{file} must hold positive numbers, got {values.min():g}.")
    return Data(values, f"{len(values)} cells measured by Sachs et al.")


def _stand_in(seed: int) -> Data:
    """Exponentials of a linear model on the graph of 17 edges."""
    edge_key, data_key = jax.random.split(jax.random.key(seed))
    weights = dag.sample_edge_weights(
        edge_key, reference_graphs()["17 edges"], low=0.3, high=0.8
    )
    logs = dag.sample_linear_sem(data_key, weights, NUM_ROWS)
    return Data(np.exp(np.asarray(logs)), "NOT the proteins: a linear model stands in")


def scales(values: np.ndarray) -> dict[str, np.ndarray]:
    """Gives the same measurements on four scales."""
    logs = np.log(values)
    return {
        "raw": values,
        "standardized": values / values.std(axis=0),
        "logarithms": logs,
        "standardized logarithms": logs / logs.std(axis=0),
    }


def distances(
    estimate: jax.Array, references: dict[str, np.ndarray], *, partly: bool = False
) -> dict[str, float]:
    """Gives the SHD to each reference, of classes if the estimate is one."""
    found = {"edges": float(jnp.sum(estimate != 0))}
    for name, graph in references.items():
        if partly:
            shd = dag.cpdag_distance(estimate, dag.dag_to_cpdag(graph))
        else:
            shd = dag.count_accuracy(estimate, graph).shd
        found[f"SHD to {name}"] = float(shd)
    return found


def least_squares(
    x: np.ndarray, references: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Searches by least squares: all orders, and insertions."""
    stats = dag.gram_stats(x)
    exact = dag.exact_order(stats)
    orders = {
        "best of all orders": exact.order,
        "eqvar, then insertions": dag.topo_search(stats, dag.eqvar_order(stats)).order,
        "variance sort": dag.variance_order(stats),
    }
    rows = {}
    for name, order in orders.items():
        kept = dag.threshold_to_dag(
            dag.ols_given_order(stats, order), threshold=THRESHOLD
        )
        loss = float(dag.order_loss(stats, order))
        rows[name] = {"loss": loss, **distances(kept != 0, references)}
    return rows


def scale_free(
    key: jax.Array, x: np.ndarray, references: dict[str, np.ndarray], config: Config
) -> dict[str, dict[str, float]]:
    """Searches that do not depend on the variances of the columns."""
    bic_key, feature_key = jax.random.split(key)
    boss = dag.boss_search(bic_key, dag.gram_stats(x), num_restarts=config.num_restarts)
    features = dag.basis_stats(x)
    search = dag.basis_order_search(
        feature_key, features, num_restarts=config.num_restarts
    )
    graph = dag.basis_prune(features, search.order)
    nothing = jnp.zeros_like(graph, dtype=jnp.int8)
    return {
        "BIC search (Markov class)": distances(
            dag.dag_to_cpdag(boss.adjacency), references, partly=True
        ),
        "features, unequal variances": distances(graph, references),
        "no edge at all": distances(nothing != 0, references),
    }


def confidence(key: jax.Array, x: np.ndarray, config: Config) -> jax.Array:
    """How often the class found by BIC allows each edge when the rows are drawn anew."""
    search_key, resample_key = jax.random.split(key)

    def fit(stats: dag.GramStats) -> jax.Array:
        start = jax.random.clone(search_key)
        found = dag.boss_search(start, stats, num_restarts=1)
        marks = dag.dag_to_cpdag(found.adjacency)
        return (marks != 0) | (marks == -1).T

    run = jax.jit(
        lambda key, x: dag.bootstrap_edges(
            key, x, fit, num_resamples=config.num_resamples, batch_size=25
        )
    )
    return run(resample_key, jnp.asarray(x))


def draw(shares: np.ndarray, reference: np.ndarray, description: str) -> Figure:
    """Draws the reference and the edges found, as wide as they are certain."""
    figure, axes = plots.new_figure(description, 1, 2, width=4.8, height=4.4)
    _graph(axes[0, 0], reference.astype(float), "reference, 17 edges")
    _graph(axes[0, 1], shares, "BIC search: share of resamples", reference)
    return figure


def _graph(
    ax: Axes, shares: np.ndarray, title: str, reference: np.ndarray | None = None
) -> None:
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(NAMES)) / len(NAMES)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for start, end in np.argwhere(shares > 0.1):
        known = reference is None or reference[start, end] or reference[end, start]
        ax.annotate(
            "",
            places[end],
            places[start],
            arrowprops={
                "arrowstyle": "-|>",
                "color": plots.COLORS[0] if known else plots.COLORS[1],
                "alpha": 0.3 + 0.7 * float(shares[start, end]),
                "linewidth": 0.4 + 1.8 * float(shares[start, end]),
                "shrinkA": 13,
                "shrinkB": 13,
            },
        )
    for name, place in zip(NAMES, places, strict=True):
        box = {"boxstyle": "circle", "facecolor": "0.95", "edgecolor": "0.6"}
        ax.text(*place, name, ha="center", va="center", fontsize=7, bbox=box)
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)


def report(data: Data, rows: list[list[Any]], columns: list[str]) -> None:
    """Prints every search on every scale."""
    common.print_table(
        data.description,
        ["scale", "method", *columns],
        rows,
        caption="edges of a Markov class: an undirected one counts once",
    )


def main(config: Config) -> dict[str, float]:
    """Runs every method on every scale and returns what it found."""
    references = reference_graphs()
    search_key, resample_key = jax.random.split(jax.random.key(config.seed))
    measured: dict[str, float] = {}
    columns = ["loss", "edges", *(f"SHD to {name}" for name in references)]
    rows: list[list[Any]] = []
    with jax.enable_x64(True), warnings.catch_warnings():
        # Standardized columns are fed to least squares on purpose.
        warnings.simplefilter("ignore", category=UserWarning)
        data = load(config.data, config.seed)
        for scale, x in scales(data.values).items():
            methods = least_squares(x, references)
            if "standardized" not in scale:
                key = jax.random.clone(search_key)
                methods |= scale_free(key, x, references, config)
            for name, row in methods.items():
                cells = [row.get(column) for column in columns]
                rows.append([scale, name, *cells])
                measured |= {f"{scale}/{name}/{k}": v for k, v in row.items()}
        stats = dag.gram_stats(data.values)
        for name, graph in references.items():
            for kind, measure in (
                ("variance", dag.var_sortability),
                ("R2", dag.r2_sortability),
            ):
                measured[f"{kind} sortability/{name}"] = float(measure(stats, graph))
        logs = scales(data.values)["logarithms"]
        shares = np.asarray(confidence(resample_key, logs, config))
    report(data, rows, columns)
    common.print_table(
        "Sortability of the raw data, and the most certain edges on logarithms",
        ["quantity", "value"],
        [[k, v] for k, v in measured.items() if "sortability" in k]
        + [
            [f"{NAMES[i]} -> {NAMES[j]}", float(shares[i, j])]
            for i, j in _most_certain(shares, 12)
        ],
        caption="an edge without a direction counts for both",
    )
    for i, j in np.argwhere(shares > 0):
        measured[f"confidence/{NAMES[i]} {NAMES[j]}"] = float(shares[i, j])
    common.save_json(config, "dag_sachs", measured)
    if config.output is not None:
        figure = draw(shares, references["17 edges"], data.description)
        common.save_figure(config, "dag_sachs", figure)
    return measured


def _most_certain(shares: np.ndarray, count: int) -> list[tuple[int, int]]:
    ranked = np.argsort(-shares, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(ranked, shares.shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


if __name__ == "__main__":
    main(common.parse(Config))
