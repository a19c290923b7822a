"""The search by swaps as one would write it first: a regression for each node refitted.

Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023, linear
case: NumPy alone, every candidate costs one least-squares fit for each node between the
two that change places.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

__all__ = ["Found", "search_by_regressions"]


class Found(NamedTuple):
    """Where the search ended."""

    order: np.ndarray
    loss: float


class _Fit:
    """Least squares of every node on those before it, by order."""

    def __init__(self, x: np.ndarray, order: np.ndarray):
        self.x, self.order = x, order
        self.weights = np.zeros((x.shape[1],) * 2)
        self.squares = np.zeros(x.shape[1])
        for position in range(x.shape[1]):
            node, parents = order[position], order[:position]
            coefficients, self.squares[position] = _regress(x, node, parents)
            self.weights[parents, node] = coefficients

    @property
    def loss(self) -> float:
        return self.squares.sum() / (2 * len(self.x))

    def after_swap(self, first: int, last: int) -> float:
        """The loss with the nodes at two positions exchanged."""
        order = _swapped(self.order, first, last)
        changed = sum(
            _regress(self.x, order[p], order[:p])[1] for p in range(first, last + 1)
        )
        kept = self.squares.sum() - self.squares[first : last + 1].sum()
        return (kept + changed) / (2 * len(self.x))


def _regress(x: np.ndarray, node: int, parents: np.ndarray) -> tuple[np.ndarray, float]:
    if not len(parents):
        return np.zeros(0), float(x[:, node] @ x[:, node])
    design, target = x[:, parents], x[:, node]
    coefficients = scipy.linalg.lstsq(design, target)[0]
    residual = target - design @ coefficients
    return coefficients, float(residual @ residual)


def _swapped(order: np.ndarray, first: int, last: int) -> np.ndarray:
    order = order.copy()
    order[[first, last]] = order[[last, first]]
    return order


def search_by_regressions(
    x: np.ndarray, order: np.ndarray, *, small: int, large: int, budget: int
) -> Found:
    """Walks from local minimum to local minimum until no candidate pays."""
    used = 0
    while True:
        fit = _Fit(x, order)
        near, far = _candidates(fit, small, large)
        moves = _improving(fit, near)
        if not moves:
            moves = _improving(fit, far) if used < budget else []
            used += 1
        if not moves:
            return Found(order, fit.loss)
        taken: list[tuple[int, int]] = []
        for _, first, last in sorted(moves):
            if all(last < low or high < first for low, high in taken):
                taken.append((first, last))
                order = _swapped(order, first, last)


def _candidates(
    fit: _Fit, small: int, large: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of positions by the total weight of walks from the first to the last."""
    d = len(fit.order)
    walks = np.linalg.inv(np.eye(d) - np.abs(fit.weights))
    walks = walks[np.ix_(fit.order, fit.order)]
    first, last = np.triu_indices(d, 1)
    totals = walks[first, last]
    ranked = np.sort(totals)
    pairs = list(zip(first.tolist(), last.tolist(), strict=True))
    within = lambda low, high: [
        pair for pair, total in zip(pairs, totals, strict=True) if low < total <= high
    ]
    near, far = ranked[small - 1], ranked[large - 1]
    return within(-np.inf, near), within(near, far)


def _improving(fit: _Fit, pairs: list[tuple[int, int]]) -> list[tuple[float, int, int]]:
    losses = [(fit.after_swap(*pair), *pair) for pair in pairs]
    return [move for move in losses if move[0] < fit.loss]
