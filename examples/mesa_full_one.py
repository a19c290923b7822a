"""The vector of ones: training from a diagonal start leaves the diagonal.

Paper: Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
NeurIPS 2024, figure 7, proposition 4.2 and theorem 4.3. With the first token fixed to
the vector of ones the off-diagonal gradients of A and B do not vanish. The paper
shows that diagonal convergence fails and leaves open where training goes. The exact
population loss answers: to A = alpha I + alpha' (J - I), B = beta I + beta' (J - I)
with small negative alpha', beta', J the matrix of ones, and a loss below that of the
diagonal model.

The remedy of theorem 4.3 restores the diagonal: mask the off-diagonal gradients of A
and B (`keep_diagonal_updates`), or set these entries to 0 after each step, as the
released code does (`project_diagonal`). For plain gradient descent from a diagonal
start the two coincide.

Command: python examples/mesa_full_one.py --output outputs/full_one
Time: about 20 seconds on two CPU cores.
"""

import dataclasses
from typing import NamedTuple

import _common as common
import _mesa_training as training
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from jaxkit import mesa


class Reference(NamedTuple):
    """A limit known from an independent float64 minimization."""

    length: int
    dim: int
    start: tuple[float, float]
    alpha: float
    alpha_off: float
    beta: float
    beta_off: float
    loss: float
    masked_loss: float


REFERENCES = (
    Reference(
        *(100, 5, (0.1, 0.1)),
        *(0.9223778480, -0.0485004710, 0.9254686552, -0.0304049565),
        *(38.179578740, 42.672698454),
    ),
    Reference(
        *(100, 5, (0.5, 1.5)),
        *(0.5617587079, -0.0295383958, 1.5195701901, -0.0499233174),
        *(38.179578740, 42.672698454),
    ),
    Reference(
        *(20, 3, (0.1, 0.1)),
        *(0.8929004, -0.0907896, 0.8929253, -0.0906672),
        *(6.3231062621, 7.5523891),
    ),
    Reference(
        *(5, 2, (0.1, 0.1)),
        *(0.9058172, -0.0889080, 0.8573200, -0.3056335),
        *(0.8100160877, 1.1379310345),
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    references: int = common.option(4, "how many rows of the table of limits")
    dim: int = common.option(5, "dimension of the tokens of the sampled run")
    length: int = common.option(24, "tokens per sequence", paper=100)
    count: int = common.option(512, "training sequences", paper=10_000)
    epochs: int = common.option(200, "full-batch steps")
    implementation: str = common.option(
        "quadratic", "form of linear attention", paper="parallel"
    )


class Limit(NamedTuple):
    """Where a flow on the exact loss ends."""

    a: np.ndarray
    b: np.ndarray
    loss: float


@jax.enable_x64(True)
def exact_limits(length: int, dim: int, start: tuple[float, float]) -> list[Limit]:
    """Follows the exact gradient flow, first free, then masked."""
    tensor = mesa.population_tensor(
        lambda index: np.ones(index.shape[0]), length=length, dim=dim
    )
    _, c2 = mesa.flow_constants(mesa.ones_moments(dim), length=length)
    begin = mesa.init_diagonal(dim, a=start[0], b=start[1], dtype=jnp.float64)

    def loss_fn(params: mesa.LSAParams, masked: jax.Array) -> jax.Array:
        a, b = training.blocks(params)
        diagonal_a, diagonal_b = training.blocks(mesa.project_diagonal(params))
        return mesa.population_loss_general(
            jnp.where(masked, diagonal_a, a), jnp.where(masked, diagonal_b, b), tensor
        )

    @jax.jit
    def follow(masked: jax.Array) -> mesa.Trajectory:
        times = jnp.linspace(0.0, 40.0 / c2, 41)
        return mesa.gradient_flow(
            lambda params: loss_fn(params, masked), begin, times, substeps=30
        )

    flows = [follow(jnp.asarray(masked)) for masked in (False, True)]
    last = [jax.tree.map(lambda x: np.asarray(x[-1]), flow) for flow in flows]
    return [
        Limit(*map(np.asarray, training.blocks(end.params)), float(end.loss))
        for end in last
    ]


def sampled_runs(config: Config) -> dict[str, mesa.LSAParams]:
    """Trains on sequences: free, with masked gradients, and with projection."""
    law = training.FULL_ONE
    x = training.sample(
        jax.random.key(config.seed),
        law,
        count=config.count,
        length=config.length,
        dim=config.dim,
        stratified=False,
    )
    sgd = optax.sgd(law.step_size(length=config.length, dim=config.dim))
    masked = optax.chain(mesa.keep_diagonal_updates(), sgd)
    kinds = {"free": (sgd, False), "masked": (masked, False), "projected": (sgd, True)}
    return {
        name: training.train_on_samples(
            config,
            f"ones_{name}",
            x,
            training.diagonal_starts(config.dim),
            optimizer=optimizer,
            epochs=config.epochs,
            implementation=config.implementation,
            project=project,
        )
        for name, (optimizer, project) in kinds.items()
    }


def compare(reference: Reference) -> tuple[list[list], dict[str, float], list[Limit]]:
    """Measures one row of the table of limits."""
    length, dim, start, *_ = reference
    free, masked = exact_limits(length, dim, start)
    limit = mesa.limit_product(mesa.ones_moments(dim), length=length)
    pairs = {
        "alpha": (free.a[0, 0], reference.alpha),
        "alpha'": (free.a[0, 1], reference.alpha_off),
        "beta": (free.b[0, 0], reference.beta),
        "beta'": (free.b[0, 1], reference.beta_off),
        "loss": (free.loss, reference.loss),
        "masked ab": (masked.a[0, 0] * masked.b[0, 0], float(limit)),
        "masked loss": (masked.loss, reference.masked_loss),
    }
    name = f"T = {length}, d = {dim}, ({start[0]:g}, {start[1]:g})"
    rows = [
        [name if key == "alpha" else "", key, value, expected, value - expected]
        for key, (value, expected) in pairs.items()
    ]
    tag = f"T{length}/d{dim}/{start[0]:g}"
    measured = {f"{tag}/{key}": float(value) for key, (value, _) in pairs.items()}
    error = max(abs(float(value) - expected) for value, expected in pairs.values())
    return rows, measured | {f"{tag}/error": error}, [free, masked]


def draw_exact(limits: list[Limit], reference: Reference) -> Figure:
    """Shows A and B at the end of the free and of the masked flow."""
    figure, axes = plots.new_figure(
        f"Ones, exact flow, T = {reference.length}, d = {reference.dim}: "
        "free training leaves the diagonal",
        *(2, 2),
        width=3.6,
        height=2.9,
    )
    for row, name, limit in zip(axes, ("free", "masked"), limits, strict=True):
        title = f"{name}, loss {limit.loss:.3f}"
        plots.heat_map(row[0], limit.a, title=f"A, {title}", numbers=True)
        plots.heat_map(row[1], limit.b, title=f"B, {title}", numbers=True)
    return figure


def draw_sampled(runs: dict[str, mesa.LSAParams]) -> Figure:
    """Shows both matrices after free and after masked training, for each start."""
    figure, axes = plots.new_figure(
        "Ones, sampled sequences: KQ (blocks 22, 23; 32, 33) and PV (12, 13) after "
        "training",
        *(4, len(training.STARTS)),
        width=3.5,
        height=2.4,
        heights=(1.9, 1.0, 1.9, 1.0),
    )
    for i, name in enumerate(("free", "masked")):
        for column, (a, b) in enumerate(training.STARTS):
            kq, pv = (np.asarray(leaf[-1, column]) for leaf in runs[name])
            title = f"{name}, start ({a:g}, {b:g})"
            plots.heat_map(axes[2 * i, column], kq, title=f"KQ, {title}", split=True)
            plots.heat_map(
                axes[2 * i + 1, column], pv, title=f"PV, {title}", split=True
            )
    return figure


def main(config: Config) -> dict[str, float]:
    """Measures the limits and trains on sequences; returns both."""
    rows, measured, shown = [], {}, None
    for reference in REFERENCES[: config.references]:
        more, values, limits = compare(reference)
        rows, measured = rows + more, measured | values
        shown = shown or (limits, reference)
    if shown:
        common.print_table(
            "Vector of ones: end of the exact gradient flow",
            ["setting", "quantity", "flow", "reference", "difference"],
            rows,
            caption="alpha', beta': the off-diagonal entries of A and B",
        )
        figure = draw_exact(*shown)
        common.save_figure(config, "mesa_full_one_exact", figure)
    runs = sampled_runs(config)
    common.save_figure(config, "mesa_full_one_sampled", draw_sampled(runs))
    limit = mesa.limit_product(mesa.ones_moments(config.dim), length=config.length)
    rows = []
    for name, path in runs.items():
        a, diagonal = (
            training.blocks(p)[0][-1] for p in (path, mesa.project_diagonal(path))
        )
        off = jnp.abs(a - diagonal)
        for i, start in enumerate(training.STARTS):
            product = float(training.product(path)[-1, i])
            largest = float(jnp.max(off[i]))
            rows.append([name, f"{start[0]:g}, {start[1]:g}", product, largest])
            measured[f"sampled/{name}/start {i}"] = product
            measured[f"sampled/{name}/off-diagonal/start {i}"] = largest
    gaps = jax.tree.map(
        lambda x, y: float(jnp.max(jnp.abs(x - y))), runs["masked"], runs["projected"]
    )
    measured["sampled/limit"] = float(limit)
    measured["sampled/masked against projected"] = max(gaps)
    common.print_table(
        f"Vector of ones, {config.count} sampled sequences of length {config.length}",
        ["training", "start a, b", "product ab", "largest off-diagonal of A"],
        rows,
        caption=f"limit of masked training {float(limit):.6f}; masked and projected "
        f"runs differ by at most {max(gaps):.2g}",
    )
    common.save_json(config, "mesa_full_one", measured)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
