"""The claims about structure learning in the tour."""

import itertools
from typing import Any

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from _claims import Claim, Picture

from jaxkit import dag

# A chain 0 -> 1 -> 2 with weights 2 and -1 and unit noise: losses by hand.
CHAIN = ((1.0, 2.0, -2.0), (2.0, 5.0, -5.0), (-2.0, -5.0, 6.0))
CHAIN_LOSSES = {
    (0, 1, 2): 1.5,
    (0, 2, 1): 1.75,
    (1, 0, 2): 3.1,
    (1, 2, 0): 3.1,
    (2, 0, 1): 41 / 12,
    (2, 1, 0): 211 / 60,
}
CYCLIC = ((0.0, 0.5, 0.0), (0.0, 0.0, 0.25), (0.2, 0.1, 0.0))
ACYCLICITY = {
    "h_expm": 0.03758079753100407,
    "h_poly": 0.01944444444444482,
    "h_logdet": 0.05129329438755058,
    "h_inv": 0.13157894736842124,
}
SIZE = 20


def run(config: common.TrainConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        searched, picture = searches(config.seed)
        return [*tables(), *acyclicity(), *searched], [picture]


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("dag", statement, *map(float, values), **options)


def tables() -> list[Claim]:
    """Every order of the chain, and every move from one of them, by hand."""
    stats = dag.covariance_stats(jnp.array(CHAIN))
    orders = jnp.array(list(CHAIN_LOSSES))
    losses, variances = jax.jit(
        jax.vmap(
            lambda order: (
                dag.order_loss(stats, order),
                dag.residual_variances(stats, order),
            )
        )
    )(orders)
    error = np.abs(np.asarray(losses) - np.array(list(CHAIN_LOSSES.values()))).max()
    spread = np.abs(np.asarray(jnp.prod(variances, axis=1)) - 1.0).max()
    start = (2, 1, 0)
    factor = dag.order_cholesky(stats, jnp.array(start))
    insertions, swaps = dag.insertion_deltas(*factor), dag.swap_deltas(*factor)
    gaps = []
    for p, q in itertools.permutations(range(3), 2):
        moved = [node for node in start if node != start[p]]
        moved.insert(q, start[p])
        gaps.append(_change(start, moved) - float(insertions[p, q]))
        swapped = list(start)
        swapped[p], swapped[q] = swapped[q], swapped[p]
        gaps.append(_change(start, swapped) - float(swaps[p, q]))
    return [
        _claim(
            "losses of all orders of a chain, by hand (largest error)",
            *(0.0, error, 1e-12),
            kind="absolute",
        ),
        _claim(
            "the product of the residual variances is the same for every order",
            *(0.0, spread, 1e-12),
            kind="absolute",
        ),
        _claim(
            "all insertions and swaps from one factor, against refitting",
            *(0.0, max(map(abs, gaps)), 1e-12),
            kind="absolute",
        ),
    ]


def _change(before: tuple[int, ...], after: list[int]) -> float:
    return 2.0 * (CHAIN_LOSSES[tuple(after)] - CHAIN_LOSSES[before])


def acyclicity() -> list[Claim]:
    """The four functions of a matrix with cycles."""
    matrix = jnp.array(CYCLIC)
    error = max(
        abs(float(getattr(dag, name)(matrix)) - want)
        for name, want in ACYCLICITY.items()
    )
    return [
        _claim(
            "four acyclicity functions against 15 digits (largest error)",
            *(0.0, error, 1e-14),
            kind="absolute",
        )
    ]


def searches(seed: int) -> tuple[list[Claim], Picture]:
    """Published swaps and insertions from one random order of scale-free graphs."""

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, 4)
        edges = dag.sample_sf_dag(keys[0], SIZE, edges_per_node=4)
        weights = dag.sample_edge_weights(keys[1], edges)
        stats = dag.gram_stats(dag.sample_linear_sem(keys[2], weights, 1000))
        order = dag.sample_order(keys[3], SIZE)
        truth = dag.order_loss(stats, dag.topological_order(edges))
        published = dag.topo_paper(stats, order)
        found = dag.topo_search(stats, order)
        distance = lambda result: (
            dag.count_accuracy(dag.threshold_to_dag(result.weights) != 0, edges).shd
        )
        histories = published.loss_history[:60], found.loss_history[:60]
        return (
            truth,
            published.loss,
            found.loss,
            distance(published),
            distance(found),
            *histories,
        )

    keys = jax.random.split(jax.random.key(seed), 8)
    truth, published, found, shd_published, shd_found, *histories = map(
        np.asarray, jax.jit(jax.vmap(one))(keys)
    )
    claims = [
        _claim(
            "SF4, d=20, 8 graphs: loss of insertions over that of published swaps",
            *(1.0, (found / published).max(), 1.0 + 1e-6),
            kind="bound",
        ),
        _claim(
            "the same: loss of insertions over that of the true order (largest)",
            *(1.0, (found / truth).max(), 1.001),
            kind="bound",
        ),
        _claim(
            "the same: wrong edges of insertions against published swaps (mean SHD)",
            *(shd_published.mean(), shd_found.mean(), 0.2),
            kind="bound",
        ),
    ]
    return claims, _picture(truth, histories)


def _picture(truth: np.ndarray, histories: list[np.ndarray]) -> Picture:
    figure, axes = plots.new_figure("Search over orders, scale-free graphs", 1, 2)
    names = ("swaps, as published", "insertions")
    for ax, history, name, color in zip(
        axes[0], histories, names, plots.COLORS, strict=False
    ):
        ax.semilogy((history / truth[:, None] - 1.0).T.clip(1e-5), color=color)
        ax.set_ylim(1e-5, None)
        plots.label(ax, title=name, x="steps", y="loss gap to the true order")
    caption = "Every line is a graph; both searches start at the same random order."
    return Picture(caption, figure)
