"""The claims about entangled gradients in the tour."""

import dataclasses
import functools
from typing import Any

import _common as common
import _entanglement_training as training
import _plots as plots
import entanglement_suffix as suffix
import jax
import jax.numpy as jnp
import numpy as np
from _claims import Claim, Picture
from _entanglement_report import Curve, suffix_curve
from matplotlib.figure import Figure

from jaxkit import entanglement, preference

# log pi_w, log pi_l, log ref_w, log ref_l at beta 0.3; 8 and 10 tokens.
PAIR, LENGTHS = (-12.0, -15.0, -11.0, -14.5), (8, 10)
# The coefficients of chosen and rejected answer, by hand.
COEFFICIENTS = {
    "dpo": (0.161228953603, 0.161228953603),
    "r_dpo": (0.164207285443, 0.164207285443),
    "dpop": (1.510003890762, 0.251667315127),
    "nca": (0.108499132565, 0.069385523198),
    "apo_zero": (0.073337493507, 0.074579702003),
    "apo_down": (0.001242208496, 0.074579702003),
    "dpo_shift": (0.165692372872, 0.099415423723),
    "robust_dpo": (0.198728953603, 0.198728953603),
}
OPTIONS = {
    "dpop": {"weight": 5.0},
    "r_dpo": {"length_weight": 0.02},
    "dpo_shift": {"rejected_weight": 0.6},
}
CELLS = (
    (suffix.ROWS[0], "one token"),
    (suffix.ROWS[1], "long suffix"),
    (suffix.ROWS[0], "long suffix"),
    (suffix.ROWS[3], "long suffix"),
    (suffix.ROWS[5], "long suffix"),
)
"""What is trained: a row and a format."""


def run(config: common.BaseConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        claims = [coefficients(), regimes(), flow(), output_layer()]
    more, picture = trained(config)
    return [*claims, *more], [picture]


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("entanglement", statement, *map(float, values), **options)


def coefficients() -> Claim:
    """How strongly losses push on the two answers, against numbers by hand."""
    error = 0.0
    for name, by_hand in COEFFICIENTS.items():
        loss = functools.partial(
            getattr(preference, f"{name}_loss"), beta=0.3, **OPTIONS.get(name, {})
        )
        rest = PAIR[2:] + (LENGTHS if name == "r_dpo" else ())
        found = entanglement.loss_coefficients(loss, *PAIR[:2], *rest)
        error = max(error, *(abs(x - y) for x, y in zip(found, by_hand, strict=True)))
    title = f"coefficients of {len(COEFFICIENTS)} losses (largest difference)"
    return _claim(title, 0.0, error, 1e-11, kind="absolute")


def regimes() -> Claim:
    """A pair of gradients, (1, 0) and (2, 1), under four ratios of coefficients."""
    gram = entanglement.PairGram(1.0, 2.0, 5.0)
    ratios = jnp.array([1.0, 2.2, 3.0, 5**0.5])
    found = entanglement.entanglement_regime(
        gram, entanglement.Coefficients(ratios, jnp.ones(4))
    )
    names = ("BOTH_DOWN", "IDEAL", "BOTH_UP", "IDEAL")
    right = [found[i] == entanglement.Regime[name] for i, name in enumerate(names)]
    title = "both down, ideal, both up, normalized: ideal (right of 4)"
    return _claim(title, 4.0, sum(map(bool, right)), 0.0)


def flow() -> Claim:
    """The exact flow of DPO under constant inner products."""
    gram = entanglement.PairGram(2.0, 1.0, 3.0)
    margin, _ = entanglement.lazy_dpo_flow(
        gram, beta=1.0, initial_margin=0.0, times=jnp.array(1.0)
    )
    return _claim("lazy flow: margin at time 1", 1.073728938, margin, 1e-9)


def output_layer() -> Claim:
    """Inner products of one token in closed form, against automatic ones."""
    probs = jnp.array([0.4, 0.3, 0.3])
    closed = entanglement.softmax_pair_gram(probs, 0, 1)
    log_prob = lambda logits, token: jax.nn.log_softmax(logits)[token]
    gram = entanglement.pair_gram(
        log_prob, jnp.log(probs), jnp.array([0]), jnp.array([1])
    )
    error = max(abs(x - y[0]) for x, y in zip(closed, gram, strict=True))
    title = "output layer: closed form = gradients (largest difference)"
    return _claim(title, 0.0, error, 1e-12, kind="absolute")


def trained(config: common.BaseConfig) -> tuple[list[Claim], Picture]:
    """Where training ends on a label alone and on a label with a long suffix."""
    small = dataclasses.replace(suffix.Config(), num_seeds=1, num_points=4)
    programs = suffix.Programs(small)
    starts = {
        form: programs.prepare(jax.random.key(small.seed), suffix.SUFFIXES[form])
        for form in ("one token", "long suffix")
    }

    def one(cell: tuple[suffix.Row, str]) -> Curve:
        return suffix.run(programs, cell[0], starts[cell[1]], small.seed)[0]

    curves = dict(zip(CELLS, training.two_at_a_time(one, CELLS), strict=True))
    short, pair, long, adam, anchored = (curves[cell] for cell in CELLS)
    falls = suffix_curve(jax.random.key(0))
    claims = [
        _claim(
            "one layer: suffix at which half of the pairs fall",
            *(7.0, np.argmax(falls > 0.5), 0.0),
        ),
        _claim(
            "SGD, DPO, label alone: the chosen answer rises (share of pairs)",
            *(1.0, short.up[-1], 0.1),
        ),
        _claim(
            "SGD, DPO, long suffix: it falls (change)",
            *(-10.0, long.chosen[-1], 0.2),
            kind="bound",
        ),
        _claim(
            "SGD, normalized per pair, long suffix: it rises (share of pairs)",
            *(1.0, pair.up[-1], 0.05),
        ),
        _claim(
            "Adam, DPO, long suffix: it falls (change)",
            *(-3.0, adam.chosen[-1], 0.2),
            kind="bound",
        ),
        _claim(
            "Adam, DPO + NLL, long suffix: it rises (share of pairs)",
            *(1.0, anchored.up[-1], 0.1),
        ),
    ]
    caption = (
        "Change of the held-out chosen answers against training. The rejected answer "
        "has the other label and the same suffix, whose gradients are nearly those of "
        "the chosen one. Normalizing helps plain descent, an anchor helps Adam too."
    )
    return claims, Picture(caption, draw(curves))


def draw(curves: dict[tuple[suffix.Row, str], Curve]) -> Figure:
    """Draws the change of the chosen answers along each run."""
    figure, axes = plots.new_figure("A long suffix lowers the good answer", width=6.4)
    ax = axes[0, 0]
    for ((row, form), curve), color in zip(curves.items(), plots.COLORS, strict=False):
        part = np.linspace(0.0, 1.0, len(curve.chosen))
        ax.plot(part, curve.chosen, color=color, label=f"{row.name}, {form}")
    ax.axhline(0.0, color="0.3", linewidth=0.8)
    plots.label(ax, title="", x="part of the run", y="chosen change")
    plots.legend(ax)
    return figure
