"""Contract rows of distillation: coresets, evaluation and artefacts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import distillation
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS_PER_CLASS = 3
LABELS = np.repeat(np.arange(3), ROWS_PER_CLASS).astype(np.int32)


def _clusters(rng: np.random.Generator) -> tuple[np.ndarray]:
    """Three groups of three rows, far apart."""
    centers = np.array([[0.0, 8.0], [8.0, 0.0], [-8.0, -4.0]])[LABELS]
    return (centers + rng.uniform(-1.0, 1.0, (LABELS.size, 2)),)


def _bad_rows(count: str, *, key: bool) -> tuple[Bad, ...]:
    """The refusals that all ways to choose rows share."""
    first = (jax.random.key(0),) if key else ()
    good = (*first, np.ones((4, 2), np.float32))
    return (
        Bad(
            error=ValueError,
            match=rf"`{count}` must be at most 4, the rows of `features`, got 5",
            args=good,
            kwargs={count: 5},
        ),
        Bad(
            error=ValueError,
            match=rf"`{count}` must be at least 1, got 0",
            args=good,
            kwargs={count: 0},
        ),
        Bad(
            error=TypeError,
            match=r"`features`.*int32",
            args=(*first, np.ones((4, 2), np.int32)),
        ),
        Bad(
            error=ValueError,
            match=r"`features` must have at least 1 axes",
            args=(*first, np.float32(1.0)),
        ),
        Bad(
            error=ValueError,
            match=r"`where` must broadcast to shape \(4,\), got \(3,\)",
            args=good,
            kwargs={"where": jnp.ones(3, bool)},
        ),
    )


def _row(function: Callable[..., Any], count: str, **options: Any) -> Contract:
    """The row of a function that draws: other precisions draw other numbers."""
    bad = (*_bad_rows(count, key=True), *options.pop("bad", ()))
    kwargs = {count: 3, **options.pop("kwargs", {})}
    return Contract(
        function=function,
        samples=_clusters,
        kwargs=kwargs,
        random=True,
        low=None,
        bad=(
            *bad,
            Bad(
                error=TypeError,
                match=r"`key` must be a typed key",
                args=(jnp.zeros(2, jnp.uint32), np.ones((4, 2), np.float32)),
            ),
        ),
        **options,
    )


_STEPS_BAD = (
    Bad(
        error=ValueError,
        match=r"`max_steps` must be at least 1, got 0",
        kwargs={"max_steps": 0},
    ),
)
_FIRST_BAD = (
    Bad(
        error=TypeError,
        match=r"`first` must be one integer, got float32",
        kwargs={"first": 0.5},
    ),
    *(
        Bad(
            error=ValueError,
            match=rf"`first` must lie in \[0, 9\), got {index}",
            kwargs={"first": index},
        )
        for index in (-1, 9)
    ),
)
_LABELS_BAD = (
    Bad(
        error=TypeError,
        match=r"`labels` must have an integer dtype, got float32",
        args=(jax.random.key(0), np.ones((4, 2), np.float32)),
        kwargs={"labels": np.ones(4, np.float32)},
    ),
    Bad(
        error=ValueError,
        match=r"`labels` must have shape \(4,\), got \(3,\)",
        args=(jax.random.key(0), np.ones((4, 2), np.float32)),
        kwargs={"labels": np.ones(3, np.int32)},
    ),
)


def _probe_args(*, rows: int = 4, dim: int = 3, test_dim: int = 3) -> tuple[Any, ...]:
    return (
        np.ones((rows, dim), np.float32),
        np.zeros(4, np.int32),
        np.ones((2, test_dim), np.float32),
    )


ROWS = {
    "random_subset": _row(
        distillation.random_subset,
        "num_points",
        kwargs={"labels": LABELS},
        bad=_LABELS_BAD,
    ),
    "kmeans": _row(
        distillation.kmeans,
        "num_clusters",
        extremes=((jax.random.key(0), np.ones((4, 2))),),
        bad=_STEPS_BAD,
    ),
    "kmeans_subset": _row(distillation.kmeans_subset, "num_points", bad=_STEPS_BAD),
    "kcenter_greedy": Contract(
        function=distillation.kcenter_greedy,
        samples=_clusters,
        kwargs={"num_points": 3},
        low=None,
        bad=(*_bad_rows("num_points", key=False), *_FIRST_BAD),
    ),
    "linear_probe": Contract(
        function=distillation.linear_probe,
        samples=lambda rng: (
            *_clusters(rng),
            LABELS,
            rng.standard_normal((2, 2)),
        ),
        kwargs={"num_classes": 3},
        hyper={"ridge": (0.1, 1.0)},
        differentiable=(0, 2),
        mask=lambda: np.arange(9) % 3 > 0,
        poisoned=(0,),
        loss=True,
        # A constant feature, and one row alone.
        extremes=(
            (np.ones((9, 2)), LABELS, np.zeros((2, 2))),
            (np.ones((1, 2)), LABELS[:1], np.ones((2, 2))),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`features` and `test_features`.*\(4, 3\) and \(2, 2\)",
                args=_probe_args(test_dim=2),
            ),
            Bad(
                error=ValueError,
                match=r"`labels` must have shape \(5,\), got \(4,\)",
                args=_probe_args(rows=5),
            ),
            Bad(
                error=TypeError,
                match=r"`labels` must have an integer dtype, got float32",
                args=(
                    np.ones((4, 3), np.float32),
                    *([np.ones((4, 3), np.float32)] * 2),
                ),
            ),
            Bad(
                error=ValueError,
                match=r"`num_classes` must be at least 2, got 1",
                kwargs={"num_classes": 1},
            ),
            Bad(
                error=ValueError,
                match=r"`ridge` must be positive, got 0",
                kwargs={"ridge": 0.0},
            ),
        ),
    ),
}
ELSEWHERE = {
    "DistilledSet": "a container: tests/distillation/test_artefact.py",
    "KMeansResult": "a container: tests/distillation/test_coresets.py",
    "load_distilled": "reads a file: tests/distillation/test_artefact.py",
    "save_distilled": "writes a file: tests/distillation/test_artefact.py",
    "RepresentationError": "a container: tests/distillation/test_evaluation.py",
    "finetune": "takes a network: tests/distillation/test_evaluation.py",
    "replace_head": "takes trees of parameters: tests/distillation/test_evaluation.py",
    "representation_mse": "takes a network: tests/distillation/test_evaluation.py",
    "sgd_linear_probe": "takes an optimizer: tests/distillation/test_probe.py",
}
