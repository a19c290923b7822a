"""Packages of structure learning that need not be installed."""

import contextlib
import io
import logging
from collections.abc import Callable

import numpy as np

from benchmarks._harness import Program, Work
from benchmarks._peers import optional_module

__all__ = ["structure_peers"]

Learner = Callable[[], np.ndarray]


def structure_peers(
    x: np.ndarray, *, rate: float, steps: int, penalty: float, work: Work
) -> list[Program]:
    """The methods of those packages that are here, under the settings of ours."""
    learners = {
        "dagma of dagma": _dagma(x, rate, steps),
        "boss of causal-learn": _boss(x, penalty),
        "notears of gcastle": _notears(x),
    }
    return [
        Program(name, _quiet(learner), work, same=False)
        for name, learner in learners.items()
        if learner is not None
    ]


def _quiet(learner: Learner) -> Learner:
    def run() -> np.ndarray:
        # Progress bars and logs would run through the tables.
        logging.disable(logging.INFO)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return learner()
        finally:
            logging.disable(logging.NOTSET)

    return run


def _dagma(x: np.ndarray, rate: float, steps: int) -> Learner | None:
    linear = optional_module("dagma.linear")
    if linear is None:
        return None
    # A copy: it centers the data it is given.
    return lambda: linear.DagmaLinear("l2").fit(
        x.copy(), lambda1=0.03, lr=rate, warm_iter=steps, max_iter=2 * steps
    )


def _boss(x: np.ndarray, penalty: float) -> Learner | None:
    module = optional_module("causallearn.search.PermutationBased.BOSS")
    if module is None:
        return None
    given = {"lambda_value": penalty}
    return lambda: module.boss(x, parameters=given, verbose=False).graph


def _notears(x: np.ndarray) -> Learner | None:
    algorithms = optional_module("castle.algorithms")
    if algorithms is None:
        return None

    def learn() -> np.ndarray:
        model = algorithms.Notears(lambda1=0.1)
        model.learn(x)
        return np.asarray(model.causal_matrix)

    return learn
