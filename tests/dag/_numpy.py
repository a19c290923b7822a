"""Independent float64 formulas for the tests of jaxkit.dag."""

import numpy as np

__all__ = [
    "brute_loss",
    "chain",
    "diamond",
    "er_data",
    "inserted",
    "random_gram",
    "regressions",
    "released_topo",
    "swapped",
]

CHAIN = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
DIAMOND = np.array(
    [[0, 1.5, -0.8, 0], [0, 0, 0, 0.7], [0, 0, 0, 1.2], [0, 0, 0, 0]], float
)


def population(weights: np.ndarray) -> np.ndarray:
    """The covariance of a linear model with unit noise."""
    inverse = np.linalg.inv(np.eye(len(weights)) - weights)
    return inverse.T @ inverse


def chain() -> np.ndarray:
    return population(CHAIN)


def diamond() -> np.ndarray:
    return population(DIAMOND)


def random_gram(d: int, seed: int) -> np.ndarray:
    """A Gram matrix of no particular structure."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * d, d)) @ rng.standard_normal((d, d))
    return x.T @ x / (3 * d)


def er_data(
    d: int, seed: int, *, n: int = 500, per_node: int = 2, noise: str = "normal"
) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights of a random linear model; half of the seeds hub-like."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((d, d))
    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    count = min(per_node * d, len(pairs))
    favor = np.array([1.0 / (1 + i) if seed % 2 else 1.0 for i, _ in pairs])
    picked = rng.choice(len(pairs), count, replace=False, p=favor / favor.sum())
    for k in picked:
        weights[pairs[k]] = rng.uniform(0.5, 2.0) * rng.choice([-1.0, 1.0])
    shuffle = rng.permutation(d)
    weights = weights[np.ix_(shuffle, shuffle)]
    draw = {"normal": rng.normal, "gumbel": rng.gumbel, "exp": rng.exponential}[noise]
    errors = draw(size=(n, d))
    return errors @ np.linalg.inv(np.eye(d) - weights), weights


def regressions(gram: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and residual variances, one linear system per node."""
    weights, variances = np.zeros_like(gram), np.zeros(len(order))
    for m, node in enumerate(order):
        before = order[:m]
        variances[m] = gram[node, node]
        if m:
            inner = gram[np.ix_(before, before)]
            slope = np.linalg.solve(inner, gram[before, node])
            weights[before, node] = slope
            variances[m] -= slope @ gram[before, node]
    return weights, variances


def brute_loss(gram: np.ndarray, order: np.ndarray) -> float:
    return 0.5 * regressions(gram, order)[1].sum()


def inserted(order: np.ndarray, p: int, q: int) -> np.ndarray:
    nodes = list(order)
    nodes.insert(q, nodes.pop(p))
    return np.array(nodes)


def swapped(order: np.ndarray, p: int, q: int) -> np.ndarray:
    order = order.copy()
    order[[p, q]] = order[[q, p]]
    return order


def released_topo(
    x: np.ndarray, order: np.ndarray, small: int, large: int, budget: int
) -> tuple[np.ndarray, float, int]:
    """The original search in plain words: regressions for every exchange tried."""
    n, d = x.shape

    def residuals(order: np.ndarray, which: range) -> float:
        total = 0.0
        for m in which:
            y, before = x[:, order[m]], x[:, order[:m]]
            fit = before @ np.linalg.lstsq(before, y, rcond=None)[0] if m else 0.0
            total += ((y - fit) ** 2).sum() / (2 * n)
        return total

    def improving(order, walks, size, tried):
        pairs = [(p, q) for q in range(d) for p in range(q)]
        height = [walks[order[q], order[p]] for p, q in pairs]
        limit, out = sorted(height)[size - 1], []
        for (p, q), h in zip(pairs, height, strict=True):
            if h <= limit and (p, q) not in tried:
                tried.add((p, q))
                window = range(p, q + 1)
                change = residuals(swapped(order, p, q), window)
                change -= residuals(order, window)
                out += [(change, p, q)] if change < 0 else []
        return sorted(out)

    steps = 0
    while True:
        weights = np.zeros((d, d))
        for m in range(1, d):
            before = order[:m]
            solution = np.linalg.lstsq(x[:, before], x[:, order[m]], rcond=None)[0]
            weights[before, order[m]] = solution
        walks = np.linalg.inv(np.eye(d) - np.abs(weights)).T
        tried: set[tuple[int, int]] = set()
        moves = improving(order, walks, small, tried)
        if not moves and budget:
            moves = improving(order, walks, large, tried)
            budget -= bool(moves)
        if not moves:
            return order, residuals(order, range(d)), steps
        taken: list[tuple[int, int]] = []
        for _, p, q in moves:
            if all(q < a or p > b for a, b in taken):
                taken.append((p, q))
        for p, q in taken:
            order = swapped(order, p, q)
        steps += 1
