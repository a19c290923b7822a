"""The losses and their slopes in float64 NumPy, as the papers write them.

Every formula takes a mapping with the log-ratios `a` and `b`, the log-probabilities
`w` and `l`, the lengths `nw` and `nl`, and the hyper-parameters by name, and gives the
value and the two partial derivatives in the policy's log-probabilities.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["FORMULAS", "sigmoid"]

Inputs = Mapping[str, Any]
Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def sigmoid(u: Any) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.asarray(u, np.float64)))


def bump(u: Any) -> np.ndarray:
    return sigmoid(u) * sigmoid(-u)


def log_sigmoid(u: Any) -> np.ndarray:
    return -np.logaddexp(0.0, -np.asarray(u, np.float64))


def of_margin(value: Callable[..., Any], slope: Callable[..., Any]) -> Any:
    """A loss of m = beta (a - b) from its value and its slope in m."""

    def formula(x: Inputs) -> Outputs:
        m = x["beta"] * (x["a"] - x["b"])
        g = x["beta"] * slope(m, x)
        return value(m, x), g, -g

    return formula


def per_token(margin: Callable[[Inputs], Any], slopes: Callable[[Inputs], Any]) -> Any:
    """A logistic loss of a margin that the two answers enter differently."""

    def formula(x: Inputs) -> Outputs:
        m, eps = margin(x), x["label_smoothing"]
        value = -(1 - eps) * log_sigmoid(m) - eps * log_sigmoid(-m)
        g = sigmoid(m) - (1 - eps)
        up, down = slopes(x)
        return value, g * up, -g * down

    return formula


def ipo(x: Inputs) -> Outputs:
    delta = x["a"] / x["nw"] - x["b"] / x["nl"] - 1 / (2 * x["beta"])
    return delta**2, 2 * delta / x["nw"], -2 * delta / x["nl"]


def exo(m: Any, x: Inputs) -> Any:
    eps = x["label_smoothing"]
    right = sigmoid(m) * (log_sigmoid(m) - np.log(1 - eps))
    return right + sigmoid(-m) * (log_sigmoid(-m) - np.log(eps))


def nca(x: Inputs) -> Outputs:
    beta, u, v = x["beta"], x["beta"] * x["a"], x["beta"] * x["b"]
    value = -log_sigmoid(u) - log_sigmoid(-u) / 2 - log_sigmoid(-v) / 2
    return value, beta * (sigmoid(u) / 2 - sigmoid(-u)), beta * sigmoid(v) / 2


def bco(x: Inputs) -> Outputs:
    beta, shift = x["beta"], x["reward_shift"]
    u, v = beta * x["a"] - shift, beta * x["b"] - shift
    return (
        -log_sigmoid(u) - log_sigmoid(-v),
        -beta * sigmoid(-u),
        beta * sigmoid(v),
    )


def sppo(x: Inputs) -> Outputs:
    up, down = x["a"] - 1 / (2 * x["beta"]), x["b"] + 1 / (2 * x["beta"])
    return up**2 + down**2, 2 * up, 2 * down


def apo_zero(x: Inputs) -> Outputs:
    beta, u, v = x["beta"], x["beta"] * x["a"], x["beta"] * x["b"]
    return 1 - sigmoid(u) + sigmoid(v), -beta * bump(u), beta * bump(v)


def apo_down(x: Inputs) -> Outputs:
    beta, u, m = x["beta"], x["beta"] * x["a"], x["beta"] * (x["a"] - x["b"])
    value = sigmoid(u) + 1 - sigmoid(m)
    return value, beta * (bump(u) - bump(m)), beta * bump(m)


def discopop(m: Any, x: Inputs) -> Any:
    w = sigmoid(m / x["tau"])
    return np.logaddexp(0, -m) * (1 - w) + np.exp(-m) * w


def discopop_slope(m: Any, x: Inputs) -> Any:
    w = sigmoid(m / x["tau"])
    gap = np.exp(-m) - np.logaddexp(0, -m)
    return -sigmoid(-m) * (1 - w) - np.exp(-m) * w + gap * w * (1 - w) / x["tau"]


def aot(x: Inputs) -> Outputs:
    """Paired: the policy's differences against the reference's, rank by rank."""
    u, v = x["w"] - x["l"], (x["w"] - x["a"]) - (x["l"] - x["b"])
    m = x["beta"] * (np.sort(u) - np.sort(v))
    eps = x["label_smoothing"]
    g = x["beta"] * (sigmoid(m) - (1 - eps))
    slope = np.empty_like(g)
    slope[np.argsort(u)] = g
    return -(1 - eps) * log_sigmoid(m) - eps * log_sigmoid(-m), slope, -slope


def aot_unpaired(x: Inputs) -> Outputs:
    m = x["beta"] * (np.sort(x["a"]) - np.sort(x["b"]))
    eps = x["label_smoothing"]
    g = x["beta"] * (sigmoid(m) - (1 - eps))
    up, down = np.empty_like(g), np.empty_like(g)
    up[np.argsort(x["a"])], down[np.argsort(x["b"])] = g, -g
    return -(1 - eps) * log_sigmoid(m) - eps * log_sigmoid(-m), up, down


def odds_ratio(x: Inputs) -> Outputs:
    p, q = np.exp(x["w"] / x["nw"]), np.exp(x["l"] / x["nl"])
    gap = np.log(p / (1 - p)) - np.log(q / (1 - q))
    g = -sigmoid(-gap)
    return -log_sigmoid(gap), g / (x["nw"] * (1 - p)), -g / (x["nl"] * (1 - q))


def orpo(x: Inputs) -> Outputs:
    value, up, down = odds_ratio(x)
    weight = x["weight"]
    return (
        -x["w"] / x["nw"] + weight * value,
        -1 / x["nw"] + weight * up,
        weight * down,
    )


def power(x: Inputs, log_prob: str, length: str) -> Any:
    return (1 - np.exp(-x["alpha"] * x[log_prob] / x[length])) / x["alpha"]


FORMULAS: dict[str, Callable[[Inputs], Outputs]] = {
    "sigmoid": of_margin(
        lambda m, x: (
            -(1 - x["label_smoothing"]) * log_sigmoid(m)
            - x["label_smoothing"] * log_sigmoid(-m)
        ),
        lambda m, x: sigmoid(m) - (1 - x["label_smoothing"]),
    ),
    "robust": of_margin(
        lambda m, x: (
            (
                -(1 - x["label_smoothing"]) * log_sigmoid(m)
                + x["label_smoothing"] * log_sigmoid(-m)
            )
            / (1 - 2 * x["label_smoothing"])
        ),
        lambda m, x: (
            (
                -(1 - x["label_smoothing"]) * sigmoid(-m)
                - x["label_smoothing"] * sigmoid(m)
            )
            / (1 - 2 * x["label_smoothing"])
        ),
    ),
    "hinge": of_margin(lambda m, x: np.maximum(0, 1 - m), lambda m, x: -1.0 * (m < 1)),
    "ipo": ipo,
    "sigmoid_norm": per_token(
        lambda x: x["beta"] * (x["a"] / x["nw"] - x["b"] / x["nl"]),
        lambda x: (x["beta"] / x["nw"], x["beta"] / x["nl"]),
    ),
    "exo_pair": of_margin(
        exo,
        lambda m, x: (
            bump(m) * (m - np.log((1 - x["label_smoothing"]) / x["label_smoothing"]))
        ),
    ),
    "nca_pair": nca,
    "bco_pair": bco,
    "sppo_hard": sppo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": of_margin(discopop, discopop_slope),
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "sft": lambda x: (-x["w"] / x["nw"], -1 / x["nw"], 0.0 * x["nl"]),
    "cpo": per_token(
        lambda x: x["beta"] * (x["w"] - x["l"]), lambda x: (x["beta"], x["beta"])
    ),
    "simpo": per_token(
        lambda x: x["beta"] * (x["w"] / x["nw"] - x["l"] / x["nl"]) - x["gamma"],
        lambda x: (x["beta"] / x["nw"], x["beta"] / x["nl"]),
    ),
    "alphapo": per_token(
        lambda x: x["beta"] * (power(x, "w", "nw") - power(x, "l", "nl")) - x["gamma"],
        lambda x: (
            x["beta"] * np.exp(-x["alpha"] * x["w"] / x["nw"]) / x["nw"],
            x["beta"] * np.exp(-x["alpha"] * x["l"] / x["nl"]) / x["nl"],
        ),
    ),
    "orpo": orpo,
}
