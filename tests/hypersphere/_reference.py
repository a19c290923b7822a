"""The losses with class weights written once more, one sample at a time, in NumPy.

Angles come from the arc cosine of clipped cosines, and slopes from the formulas of the
derivatives by the cosines: nothing of the library's way of evaluating them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxkit import hypersphere as hs

__all__ = ["CASES", "CIRCLE", "Case", "gradients", "polar", "spread_problem"]


def polar(angles: Any, lengths: Any) -> np.ndarray:
    """Gives vectors of the plane by their angles and lengths."""
    angles = np.asarray(angles)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return np.asarray(lengths)[:, None] * directions


CIRCLE = (
    polar([0.9, 0.75], [2.0, 3.0]),
    polar([0.0, 1.2, 2.5], [1.0, 2.0, 0.5]),
    np.array([0, 1]),
)
"""Two embeddings and three class weights on the circle, with labels."""


def spread_problem(dim: int = 4, classes: int = 5) -> tuple[np.ndarray, ...]:
    """Gives embeddings whose angles to their class go from near 0 to near pi."""
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((classes, dim))
    angles = np.array([0.05, 0.6, 1.1, 1.7, 2.3, 2.9])
    labels = np.array([0, 1, 2, 3, 4, 1])
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    own = unit[labels]
    side = rng.standard_normal(own.shape)
    side -= np.sum(side * own, axis=1, keepdims=True) * own
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    lengths = np.array([0.5, 1.5, 2.0, 3.0, 5.0, 12.0])
    turned = np.cos(angles)[:, None] * own + np.sin(angles)[:, None] * side
    return lengths[:, None] * turned, weights, labels


class Row(NamedTuple):
    """What the formulas see of one sample.

    Attributes:
      c: cosine to the own class.
      t: angle to the own class.
      o: cosines to the other classes.
      n: length of the embedding.
    """

    c: float
    t: float
    o: np.ndarray
    n: float


class Case(NamedTuple):
    """One loss: its configuration, its value of a row, and its slopes where they differ.

    Attributes:
      config: the configuration of the library.
      value: the value of a :class:`Row`.
      slopes: the derivatives by ``c`` and ``o`` if gates or margins are held constant,
        so that they are not those of ``value``; None if they are.
      state: the state of an adaptive loss.
    """

    config: Any
    value: Callable[[Row], float]
    slopes: Callable[[Row], tuple[float, np.ndarray]] | None = None
    state: Any = None


def sigma(u: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-u))


def softplus(u: Any) -> Any:
    return np.logaddexp(0.0, u)


def cross_entropy(own: float, others: np.ndarray, smoothing: float = 0.0) -> float:
    logits = np.append(others, own)
    total = np.max(logits) + np.log(np.sum(np.exp(logits - np.max(logits))))
    return total - (1 - smoothing) * own - smoothing * np.mean(logits)


def probabilities(own: float, others: np.ndarray) -> tuple[float, np.ndarray]:
    logits = np.append(others, own)
    p = np.exp(logits - np.max(logits))
    p /= np.sum(p)
    return p[-1], p[:-1]


def arc(row: Row, m: float, boundary: str = "linear") -> float:
    if boundary == "linear" and row.t > np.pi - m:
        return row.c - m * np.sin(m)
    if boundary == "easy" and row.c <= 0:
        return row.c
    if boundary == "clip":
        return np.cos(min(row.t + m, np.pi))
    return np.cos(row.t + m)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(80)


def sface(s: float, k1: float, k2: float, a: float, b: float, form: str) -> Case:
    config = hs.SFaceConfig(
        scale=s,
        intra_sharpness=k1,
        inter_sharpness=k2,
        intra_angle=a,
        inter_angle=b,
        form=form,
    )

    def gates(row: Row) -> tuple[float, np.ndarray]:
        return s * sigma(k1 * (row.t - a)), s * sigma(-k2 * (np.arccos(row.o) - b))

    def slopes(row: Row) -> tuple[float, np.ndarray]:
        pull, push = gates(row)
        return -pull, push

    def gated(row: Row) -> float:
        pull, push = gates(row)
        return -pull * row.c + np.sum(push * row.o)

    def potential(row: Row) -> float:
        # Gauss-Legendre on either side of the bend of each gate.
        def integral(function: Any, low: float, high: float) -> float:
            x = low + (high - low) * (NODES + 1) / 2
            return (high - low) / 2 * np.sum(WEIGHTS * function(x))

        def pieces(function: Any, low: float, bend: float, high: float) -> float:
            middle = min(max(bend, low), high)
            return integral(function, low, middle) + integral(function, middle, high)

        pull = lambda t: s * sigma(k1 * (t - a)) * np.sin(t)
        push = lambda t: s * sigma(-k2 * (t - b)) * np.sin(t)
        others = [pieces(push, t, b, np.pi) for t in np.arccos(row.o)]
        return pieces(pull, 0.0, a, row.t) + sum(others)

    def cosine(row: Row) -> float:
        ka, kb = k1 / np.sin(a), k2 / np.sin(b)
        pull = softplus(ka * (np.cos(a) - row.c)) / ka
        return s * (pull + np.sum(softplus(kb * (row.o - np.cos(b)))) / kb)

    value = {"gated": gated, "potential": potential, "cosine": cosine}[form]
    return Case(config, value, None if form == "cosine" else slopes)


def margin_slopes(s: float, target: Any) -> Any:
    def slopes(row: Row) -> tuple[float, np.ndarray]:
        own, others = probabilities(s * target(row), s * row.o)
        return s * (own - 1), s * others

    return slopes


def psi(t: float, m: float) -> float:
    q = np.floor(m * t / np.pi)
    return (-1) ** q * np.cos(m * t) - 2 * q


def revised(row: Row) -> float:
    return psi(row.t, 1.7)


BIAS = 1.5


def sphereface2(row: Row) -> float:
    g = lambda c: 2 * ((c + 1) / 2) ** 3 - 1
    own = 0.7 * softplus(-(40 * (g(row.c) - 0.4) + BIAS))
    others = 0.3 * np.sum(softplus(40 * (g(row.o) + 0.4) + BIAS))
    return 50 / 40 * (own + others)


def sphereface2_slopes(row: Row) -> tuple[float, np.ndarray]:
    g = lambda c: 2 * ((c + 1) / 2) ** 3 - 1
    own = -0.7 * 50 * sigma(-(40 * (g(row.c) - 0.4) + BIAS))
    return own, 0.3 * 50 * sigma(40 * (g(row.o) + 0.4) + BIAS)


def curricular(row: Row) -> float:
    hard = row.o > np.cos(row.t + 0.5)
    return cross_entropy(
        8 * arc(row, 0.5), 8 * row.o * np.where(hard, 0.3 + row.o, 1.0)
    )


def magface(row: Row) -> float:
    n = np.clip(row.n, 1.0, 10.0)
    target = arc(row, 0.3 + 0.4 * (n - 1) / 9, "easy")
    return cross_entropy(8 * target, 8 * row.o) + 5 * (n / 100 + 1 / n)


def adaface(row: Row) -> float:
    quality = np.clip(0.8 * (row.n - 2.0) / (1.5 + 1e-3), -1, 1)
    t = np.arccos(np.clip(row.c, -0.999, 0.999))
    turned = np.clip(t - 0.4 * quality, 1e-3, np.pi - 1e-3)
    target = np.cos(turned) - 0.4 * (1 + quality)
    return cross_entropy(8 * target, 8 * np.clip(row.o, -0.999, 0.999))


def circle_logits(row: Row) -> tuple[float, np.ndarray, float, np.ndarray]:
    pull = 12 * max(0.0, 1.25 - row.c)
    push = 12 * np.maximum(0.0, row.o + 0.25)
    return pull * (row.c - 0.75), push * (row.o - 0.25), pull, push


def circle_slopes(row: Row) -> tuple[float, np.ndarray]:
    own, others, pull, push = circle_logits(row)
    p_own, p_others = probabilities(own, others)
    return pull * (p_own - 1), push * p_others


M = hs.MarginConfig
CASES: dict[str, Case] = {
    "sface": sface(64.0, 10.0, 8.0, 0.8, 1.4, "gated"),
    "sface_potential": sface(64.0, 10.0, 8.0, 0.8, 1.4, "potential"),
    "sface_cosine": sface(64.0, 10.0, 8.0, 0.8, 1.4, "cosine"),
    "normface": Case(M.normface(scale=8.0), lambda r: cross_entropy(8 * r.c, 8 * r.o)),
    "smoothed": Case(
        M(scale=8.0, angle_margin=0.3, label_smoothing=0.2),
        lambda r: cross_entropy(8 * arc(r, 0.3), 8 * r.o, 0.2),
    ),
    "cosface": Case(
        M.cosface(scale=8.0), lambda r: cross_entropy(8 * (r.c - 0.35), 8 * r.o)
    ),
    "filtered": Case(
        M(scale=8.0, cosine_margin=0.4, filter_threshold=0.3),
        lambda r: cross_entropy(8 * (r.c - 0.4), np.where(r.o > 0.3, 0.0, 8 * r.o)),
    ),
    **{
        f"arcface_{boundary}": Case(
            M(scale=8.0, angle_margin=0.5, boundary=boundary),
            lambda r, boundary=boundary: cross_entropy(
                8 * arc(r, 0.5, boundary), 8 * r.o
            ),
        )
        for boundary in ("linear", "easy", "none", "clip")
    },
    "detached": Case(
        M(scale=8.0, angle_margin=0.5, detach_margin=True),
        lambda r: cross_entropy(8 * arc(r, 0.5), 8 * r.o),
        margin_slopes(8.0, lambda r: arc(r, 0.5)),
    ),
    "combined": Case(
        M(
            scale=8.0,
            angle_factor=1.2,
            angle_margin=0.3,
            cosine_margin=0.2,
            boundary="clip",
        ),
        lambda r: cross_entropy(
            8 * (np.cos(min(np.pi, 1.2 * r.t + 0.3)) - 0.2), 8 * r.o
        ),
    ),
    "sphereface": Case(
        hs.SphereFaceConfig(annealing=2.0),
        lambda r: cross_entropy(r.n * (2 * r.c + psi(r.t, 4)) / 3, r.n * r.o),
    ),
    "sphereface_revised": Case(
        hs.SphereFaceConfig.revised(),
        lambda r: cross_entropy(30 * revised(r), 30 * r.o),
        margin_slopes(30.0, revised),
    ),
    "sphereface2": Case(
        hs.SphereFace2Config(bias=BIAS), sphereface2, sphereface2_slopes
    ),
    "d_softmax": Case(
        hs.DSoftmaxConfig(scale=8.0),
        lambda r: softplus(8 * (0.9 - r.c)) + np.log1p(np.sum(np.exp(8 * r.o))),
    ),
    "adacos": Case(
        hs.AdaCosConfig(),
        lambda r: cross_entropy(5 * r.c, 5 * r.o),
        state=hs.AdaCosState(5.0),
    ),
    "curricularface": Case(
        hs.CurricularFaceConfig(scale=8.0),
        curricular,
        state=hs.CurricularFaceState(0.3),
    ),
    "magface": Case(
        hs.MagFaceConfig(
            scale=8.0,
            min_norm=1.0,
            max_norm=10.0,
            min_margin=0.3,
            max_margin=0.7,
            norm_weight=5.0,
        ),
        magface,
    ),
    "adaface": Case(
        hs.AdaFaceConfig(scale=8.0, concentration=0.8),
        adaface,
        # The length moves the value, but not the gradient.
        lambda r: by_cosines(adaface, r),
        state=hs.AdaFaceState(2.0, 1.5),
    ),
    "circle": Case(
        hs.CircleClassConfig(scale=12.0),
        lambda r: cross_entropy(*circle_logits(r)[:2]),
        circle_slopes,
    ),
}


def rows_of(x: np.ndarray, w: np.ndarray, labels: np.ndarray) -> list[Row]:
    """Gives the rows of a problem."""
    out = []
    for vector, label in zip(x, labels, strict=True):
        n = np.linalg.norm(vector)
        cosines = w @ vector / np.linalg.norm(w, axis=1) / n
        c = cosines[label]
        out.append(Row(c, np.arccos(np.clip(c, -1, 1)), np.delete(cosines, label), n))
    return out


def by_cosines(value: Any, row: Row) -> tuple[float, np.ndarray]:
    """Differentiates a value by the cosines with the length held, by differences."""
    h = 1e-6

    def shifted(dc: float, do: np.ndarray) -> float:
        c = row.c + dc
        return value(Row(c, np.arccos(c), row.o + do, row.n))

    zero = np.zeros_like(row.o)
    own = (shifted(h, zero) - shifted(-h, zero)) / (2 * h)
    basis = np.eye(len(row.o)) * h
    return own, np.array([(shifted(0, e) - shifted(0, -e)) / (2 * h) for e in basis])


def gradients(
    case: Case, x: np.ndarray, w: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives the values, and the gradients of their sum by embeddings and weights.

    The slopes by the cosines are turned into those by the vectors with
    dx_i = (sum_j G_ij w_j - (sum_j G_ij c_ij) x_i) / |x_i| for unit vectors, and the
    same for the weights; the length of an embedding adds its own part.
    """
    nx, nw = np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1)
    ux, uw = x / nx[:, None], w / nw[:, None]
    cosines, slope = ux @ uw.T, np.zeros((len(x), len(w)))
    values, radial = np.zeros(len(x)), np.zeros(len(x))
    for i, (row, label) in enumerate(zip(rows_of(x, w, labels), labels, strict=True)):
        values[i] = case.value(row)
        own, others = (
            by_cosines(case.value, row) if case.slopes is None else case.slopes(row)
        )
        slope[i] = np.insert(others, label, own)
        if case.slopes is None:
            h = 1e-6
            longer, shorter = (case.value(row._replace(n=row.n + d)) for d in (h, -h))
            radial[i] = (longer - shorter) / (2 * h)
    dx = (slope @ uw - np.sum(slope * cosines, axis=1)[:, None] * ux) / nx[:, None]
    dw = (slope.T @ ux - np.sum(slope * cosines, axis=0)[:, None] * uw) / nw[:, None]
    return values, dx + radial[:, None] * ux, dw
