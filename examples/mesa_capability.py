"""What the trained layer can do: its risk against the length of the context.

Paper: Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
NeurIPS 2024, section 4.2 (proposition 4.1 and theorem 4.2). The trained layer takes
one step of gradient descent, so for most laws of the first token its relative risk
E|prediction - truth|^2 / E|truth|^2 stays above 1 - k1^2 / (m2 k2) however long the
context: 0.4 for Gaussian tokens, 0.16 for uniform ones. It vanishes when all
coordinates are 0 or of one modulus: sparse and Rademacher tokens.

The formula for every context length is compared with sampled sequences, and with the
mesa layer, which solves the regression that the trained layer only begins.

Command: python examples/mesa_capability.py --output outputs/capability
Time: about 10 seconds on two CPU cores.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxkit import mesa, ops

MOMENTS: dict[str, Callable[[int], mesa.Moments]] = {
    "gaussian": mesa.gaussian_moments,
    "uniform": mesa.uniform_moments,
    "rademacher": mesa.rademacher_moments,
    "sparse": mesa.sparse_moments,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    dim: int = common.option(5, "dimension of the tokens")
    train_length: int = common.option(100, "length that the product was trained on")
    length: int = common.option(102, "tokens of a test sequence", paper=1002)
    count: int = common.option(2000, "test sequences", paper=20_000)
    ridge: float = common.option(1e-3, "ridge of the mesa layer")
    contexts: tuple[int, ...] = common.option((5, 20, 100), "positions in the table")


class Risk(NamedTuple):
    """Relative risks of one law at the positions 2, ..., length - 1.

    Attributes:
      product: the trained product ab.
      asymptote: the limit for long training sequences and long contexts.
      theory: the formula, shape `[positions]`.
      layer: the mean over sequences for the trained layer.
      error: its standard error.
      mesa: the mean for the mesa layer.
    """

    product: float
    asymptote: float
    theory: np.ndarray
    layer: np.ndarray
    error: np.ndarray
    mesa: np.ndarray


def mesa_layer(x: jax.Array, ridge: float) -> jax.Array:
    """Predicts x_3, ..., x_T by the ridge regression of x_{i+1} on x_i."""
    query, key = x[..., 1:-1, None, :], x[..., :-2, None, :]
    return ops.mesa_attention(query, key, query, ridge=ridge)[..., 0, :]


def measure(config: Config, law: str) -> Risk:
    """Computes the theory and the risks on sampled sequences."""
    product, asymptote, theory = predict(config, law)
    x = mesa.sample_ar_sequences(
        jax.random.key(config.seed),
        batch_shape=(config.count,),
        length=config.length,
        dim=config.dim,
        initial=law,
    )
    scale = config.dim * MOMENTS[law](config.dim).m2

    @jax.jit
    def risks(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = mesa.init_diagonal(config.dim, a=1.0, b=product)
        predicted = (mesa.lsa_predict(params, x), mesa_layer(x, config.ridge))
        squared = (ops.abs_squared(y - x[:, 2:]) for y in predicted)
        return tuple(jnp.sum(s, axis=-1) / scale for s in squared)

    layer, ideal = (np.asarray(value) for value in risks(x))
    error = layer.std(axis=0, ddof=1) / np.sqrt(config.count)
    means = layer.mean(axis=0), error, ideal.mean(axis=0)
    return Risk(product, asymptote, theory, *means)


@jax.enable_x64(True)
def predict(config: Config, law: str) -> tuple[float, float, np.ndarray]:
    """Computes the trained product, the asymptote and the risk at each position."""
    moments = MOMENTS[law](config.dim)
    product = mesa.limit_product(moments, length=config.train_length)
    positions = jnp.arange(2.0, config.length)
    theory = mesa.context_risk(moments, product, positions)
    return float(product), float(mesa.asymptotic_risk(moments)), np.asarray(theory)


def report(config: Config, results: dict[str, Risk]) -> dict[str, float]:
    """Prints and returns the risks at some positions."""
    rows, measured = [], {}
    for law, risk in results.items():
        measured |= {f"{law}/asymptote": risk.asymptote, f"{law}/product": risk.product}
        for t in config.contexts:
            i = t - 2
            z = (risk.layer[i] - risk.theory[i]) / max(risk.error[i], 1e-6)
            head = [law, risk.product, risk.asymptote]
            rows.append(
                [
                    *(head if t == config.contexts[0] else ["", None, None]),
                    t,
                    *(risk.theory[i], risk.layer[i], risk.error[i], risk.mesa[i]),
                ]
            )
            measured |= {
                f"{law}/{t}/theory": float(risk.theory[i]),
                f"{law}/{t}/layer": float(risk.layer[i]),
                f"{law}/{t}/z": float(z),
                f"{law}/{t}/mesa layer": float(risk.mesa[i]),
            }
    common.print_table(
        "Relative risk at position t of a test sequence",
        [
            "first token",
            "product ab",
            "asymptote",
            "t",
            "theory",
            "sampled",
            "std. error",
            "mesa layer",
        ],
        rows,
        caption=f"product trained at length {config.train_length}; asymptote: both "
        "lengths tend to infinity",
    )
    return measured


def draw(results: dict[str, Risk]) -> Figure:
    """Draws the risk of both layers against the position."""
    figure, axes = plots.new_figure(
        "Relative risk of the trained step, and of the mesa layer, against context",
        *(2, 2),
        width=4.4,
        height=3.0,
    )
    for ax, (law, risk) in zip(axes.flat, results.items(), strict=True):
        position = np.arange(2, 2 + len(risk.theory))
        shown = np.unique(np.geomspace(1, len(position), 14).astype(int)) - 1
        points = {"linestyle": "none", "markersize": 4}
        if risk.theory[-1] > 1e-12:
            ax.plot(position, risk.theory, color=plots.COLORS[0], label="layer, theory")
        else:
            style = {"fontsize": 8, "color": "0.3", "ha": "center"}
            note = "theory 0: the layer's points show rounding"
            ax.text(14, 1e-2, note, **style)
        style = {"color": plots.COLORS[0], "marker": "o", **points}
        ax.plot(position[shown], risk.layer[shown], label="layer, sampled", **style)
        style = {"color": plots.COLORS[1], "marker": "s", **points}
        ax.plot(position[shown], risk.mesa[shown], label="mesa layer, sampled", **style)
        if risk.asymptote > 1e-6:
            ax.axhline(risk.asymptote, color="0.4", linestyle="--", label="asymptote")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(1e-16, 5.0)
        title = f"{law}, asymptote {max(risk.asymptote, 0.0):.2f}"
        plots.label(ax, title=title, x="position t", y="relative risk")
    plots.legend(axes[0, 0], loc="lower left")
    return figure


def main(config: Config) -> dict[str, float]:
    """Measures every law and returns the risks."""
    results = {law: measure(config, law) for law in MOMENTS}
    measured = report(config, results)
    common.save_json(config, "mesa_capability", measured)
    common.save_figure(config, "mesa_capability", draw(results))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
