"""Tables and figure of the runs on answers with a suffix."""

from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from _entanglement_tasks import SUFFIXES
from matplotlib.figure import Figure

from jaxkit import entanglement
from jaxkit.typing import Key

SPLIT_COLUMNS = (
    *("own pair", "batch", "optimizer", "curvature", "actual"),
    *("own pair says up", "went up", "own pair right", "first order right"),
)


class Curve(NamedTuple):
    """Held-out changes from the reference along one run, each `[num_points + 1]`.

    Attributes:
      chosen: mean change of the chosen answers.
      rejected: mean change of the rejected answers.
      up: share of the pairs whose chosen answer has risen.
    """

    chosen: jax.Array
    rejected: jax.Array
    up: jax.Array


class Results(NamedTuple):
    """Everything measured; `runs` and `reports` by row, format and seed."""

    runs: dict[tuple[str, str, int], Curve]
    reports: dict[tuple[str, str, int], list[entanglement.DisplacementReport]]
    entangled: dict[tuple[str, int], dict[str, np.ndarray]]
    tokens: np.ndarray


def shares(reports: list[entanglement.DisplacementReport]) -> dict[str, float]:
    """Means of the four parts over pairs and updates, and how often signs agree."""
    parts = {
        name: np.stack([getattr(report, name).chosen for report in reports])
        for name in ("own_pair", "batch", "optimizer", "curvature", "actual")
    }
    actual = parts["actual"]
    first = parts["own_pair"] + parts["batch"] + parts["optimizer"]
    means = {name: float(values.mean()) for name, values in parts.items()}
    return means | {
        "own pair says up": float(np.mean(parts["own_pair"] > 0)),
        "went up": float(np.mean(actual > 0)),
        "own pair right": float(np.mean((parts["own_pair"] > 0) == (actual > 0))),
        "first order right": float(np.mean((first > 0) == (actual > 0))),
    }


def suffix_curve(key: Key, *, draws: int = 200, vocab: int = 11) -> np.ndarray:
    """Share of random one-layer models whose chosen answer falls, by suffix length.

    The logits of the labels are standard normal. In the suffix that of the right token
    is 3 after the chosen label and 1 after the rejected one, all others are 0; hidden
    states have cosine 0.95.
    """
    counts = jnp.arange(11)
    shape = (len(counts), draws)
    probs = jax.nn.softmax(jax.random.normal(key, (draws, vocab)))
    tokens = jnp.zeros((*shape, len(counts) - 1), jnp.int32)
    right = jax.nn.one_hot(tokens, vocab)
    gram = entanglement.suffix_pair_gram(
        jnp.broadcast_to(probs, (*shape, vocab)),
        *(jnp.full(shape, label) for label in (0, 1)),
        *(jax.nn.softmax(bonus * right) for bonus in (3.0, 1.0)),
        tokens,
        hidden_cosine=0.95,
        where=jnp.arange(len(counts) - 1) < counts[:, None, None],
    )
    return np.asarray(jnp.mean(gram.cross > gram.chosen, axis=-1))


def summary(results: Results) -> dict[str, float]:
    """Flattens the results into named numbers."""
    measured = {}
    for (name, form, seed), curve in results.runs.items():
        for key, values in curve._asdict().items():
            measured[f"{name}/{form}/seed {seed}/{key}"] = float(values[-1])
    for name, form in {key[:2] for key, found in results.reports.items() if found}:
        for key, value in split_of(results, name, form).items():
            measured[f"{name}/{form}/{key}"] = value
    for form in dict.fromkeys(form for form, _ in results.entangled):
        for key, value in entangled_of(results, form).items():
            measured[f"start/{form}/{key}"] = value
    for length, value in enumerate(suffix_curve(jax.random.key(0))):
        measured[f"one layer/suffix {length}/falls"] = float(value)
    return measured


def split_of(results: Results, name: str, form: str) -> dict[str, float]:
    """The four parts of all reported updates of a row and format."""
    found = [r for key, r in results.reports.items() if key[:2] == (name, form)]
    return shares([report for reports in found for report in reports])


def entangled_of(results: Results, form: str) -> dict[str, float]:
    """Cosine of the halves of the gradient, then medians over pairs of all seeds."""
    found = [x for key, x in results.entangled.items() if key[0] == form]
    pooled = {key: np.concatenate([x[key] for x in found]) for key in found[0]}
    return {
        "batch cosine": float(np.mean(pooled["batch cosine"])),
        "cosine": float(np.median(pooled["cosine"])),
        "share": float(np.median(pooled["share"])),
        "ideal": float(np.mean(pooled["regime"] == entanglement.Regime.IDEAL)),
    }


def print_tables(results: Results) -> None:
    """Prints the tables."""
    names = list(dict.fromkeys(key[0] for key in results.runs))
    formats = list(dict.fromkeys(key[1] for key in results.runs))
    print_tokens(results.tokens)
    common.print_table(
        "Pairs under the reference, DPO: both halves of the gradient, medians of pairs",
        ["format", "batch cosine", "pair cosine", "chosen share", "ideal pairs"],
        [
            [form, *(f"{x:.3f}" for x in entangled_of(results, form).values())]
            for form in formats
        ],
    )
    rows = []
    for name in names:
        for form in formats:
            curves = [c for key, c in results.runs.items() if key[:2] == (name, form)]
            if not curves:
                continue
            ends = [Curve(*(values[-1] for values in curve)) for curve in curves]
            rows.append(
                [
                    "" if any(row[0] == name for row in rows) else name,
                    form,
                    " / ".join(f"{end.chosen:+.2f}" for end in ends),
                    " / ".join(f"{end.rejected:+.1f}" for end in ends),
                    " / ".join(f"{100 * end.up:.0f} %" for end in ends),
                ]
            )
    common.print_table(
        "Change of the held-out log-probabilities from the reference, by seed",
        ["run", "format", "chosen", "rejected", "chosen answers risen"],
        rows,
    )
    split = {key[:2] for key, found in results.reports.items() if found}
    rows = [
        [*cell, *(f"{x:+.3f}" if i < 5 else f"{100 * x:.0f} %" for i, x in values)]
        for cell in sorted(split)
        for values in [enumerate(split_of(results, *cell).values())]
    ]
    common.print_table(
        "Change of the chosen answers of a batch in one update, means along the run",
        ["run", "format", *SPLIT_COLUMNS],
        rows,
        caption="own pair + batch + optimizer + curvature = actual; right: same sign",
    )


def token_names(places: int) -> list[str]:
    """Names of the tokens of an answer."""
    return ["label", *(f"suffix {i}" for i in range(1, places))]


def print_tokens(tokens: np.ndarray) -> None:
    """Prints the cosines of chosen against rejected tokens."""
    block = tokens[0, :, 1]
    names = token_names(len(block))
    common.print_table(
        "Cosines of token gradients of one pair, chosen (rows) against rejected",
        ["", *names],
        [
            [name, *(f"{x:+.2f}" for x in row)]
            for name, row in zip(names, block, strict=True)
        ],
    )


def draw(results: Results) -> Figure:
    """Draws curves, the token map, the four parts and the bound of one layer."""
    figure, axes = plots.new_figure(
        "A long suffix lowers the good answer; an anchor holds it", 2, 3, height=3.0
    )
    formats = list(dict.fromkeys(key[1] for key in results.runs))
    draw_curves(axes[0, 0], results, "SGD: DPO", "plain descent: DPO")
    draw_curves(axes[0, 1], results, "Adam: DPO", "Adam: DPO")
    plots.heat_map(
        axes[1, 0],
        results.tokens[0, :, 1],
        title="cosines of token gradients (1: label)",
    )
    ends = {}
    for (name, form, _), curve in results.runs.items():
        if form == formats[-1]:
            ends.setdefault(name, []).append(float(curve.chosen[-1]))
    for place, (name, values) in enumerate(ends.items()):
        color = plots.COLORS[name.startswith("Adam")]
        axes[0, 2].plot(values, [place] * len(values), "o", color=color)
    axes[0, 2].axvline(0.0, color="0.3", linewidth=0.8)
    axes[0, 2].set_yticks(range(len(ends)), list(ends), fontsize=7)
    axes[0, 2].set_xscale("symlog", linthresh=1.0)
    plots.label(
        axes[0, 2], title=f"{formats[-1]}, one dot a seed", x="chosen change", y=""
    )
    draw_split(axes[1, 1], results, formats[-1])
    curve = suffix_curve(jax.random.key(0))
    axes[1, 2].plot(curve, "o-", color=plots.COLORS[2])
    plots.label(
        axes[1, 2],
        title="random models of one layer",
        x="tokens of the suffix",
        y="share whose chosen falls",
    )
    return figure


def draw_curves(ax: Any, results: Results, name: str, title: str) -> None:
    """Draws the chosen change along the runs of one row."""
    colors = dict(zip(SUFFIXES, plots.COLORS, strict=False))
    for (run_name, form, seed), curve in results.runs.items():
        if run_name == name:
            first = seed == min(key[2] for key in results.runs)
            points = np.linspace(0.0, 1.0, len(curve.chosen))
            label = form if first else None
            ax.plot(points, curve.chosen, color=colors[form], label=label)
    ax.axhline(0.0, color="0.3", linewidth=0.8)
    plots.label(ax, title=title, x="part of the run", y="chosen change")
    plots.legend(ax)


def draw_split(ax: Any, results: Results, form: str) -> None:
    """Draws the four parts of the change of the chosen answers."""
    names = list(dict.fromkeys(k[0] for k, found in results.reports.items() if found))
    for place, name in enumerate(names):
        values = list(split_of(results, name, form).values())[:5]
        where = np.arange(5) + 0.4 * (place - 0.5)
        ax.bar(where, values, 0.38, color=plots.COLORS[place], label=name)
    ax.set_xticks(range(5), SPLIT_COLUMNS[:5], fontsize=7)
    plots.label(ax, title=f"one update, {form}", x="", y="chosen change")
    plots.legend(ax)
