"""Contract rows of jaxkit.preference."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkit import preference
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([[True, False, True], [True, True, False]])


def _logps(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    return tuple(-rng.uniform(1.0, 9.0, (2, 3)) for _ in range(count))


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _edges(count: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Log-probabilities at both ends: certainty, and answers ruled out."""
    return tuple(
        (np.full(2, chosen), np.full(2, rejected), *(np.full(2, -50.0),) * (count - 2))
        for chosen, rejected in ((0.0, -1e4), (-1e4, 0.0), (0.0, 0.0))
    )


def _pair_bad(count: int, **options: Any) -> tuple[Bad, ...]:
    """The refusals that every loss of a pair shares."""
    good = (_ones(2, 3),) * count
    return (
        Bad(
            error=ValueError,
            match=r"`chosen_logps` and `rejected_logps`.*\(2, 3\) and \(3,\)",
            args=(good[0], _ones(3), *good[2:]),
            kwargs=options,
        ),
        Bad(
            error=TypeError,
            match=r"`rejected_logps`.*int32",
            args=(good[0], _ones(2, 3, dtype=np.int32), *good[2:]),
            kwargs=options,
        ),
        Bad(
            error=ValueError,
            match=r"`beta` must broadcast to shape \(2, 3\), got \(2,\)",
            args=good,
            kwargs={**options, "beta": _ones(2)},
        ),
        Bad(
            error=ValueError,
            match=r"`where` must broadcast to shape \(2, 3\), got \(2,\)",
            args=good,
            kwargs={**options, "where": jnp.ones(2, bool)},
        ),
    )


_DIVERGENCE_BAD = Bad(
    error=ValueError,
    match=r"`divergence` must be one of 'reverse_kl'.*got 'hellinger'",
    kwargs={"divergence": "hellinger"},
)

ROWS = {
    "dpo_loss": Contract(
        function=preference.dpo_loss,
        samples=lambda rng: _logps(rng, 4),
        hyper={"beta": (0.1, 0.5), "label_smoothing": (0.1, 0.0)},
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        extremes=_edges(4),
        bad=(*_pair_bad(4), _DIVERGENCE_BAD),
    ),
    "f_divergence_score": Contract(
        function=preference.f_divergence_score,
        samples=lambda rng: (rng.uniform(-2.0, 2.0, (2, 3)),),
        kwargs={"divergence": "alpha"},
        hyper={"alpha": (0.5, 1.0)},
        differentiable=(0,),
        loss=True,
        extremes=((np.array([-1e4, 0.0, 1e4]),),),
        bad=(_DIVERGENCE_BAD,),
    ),
}

ELSEWHERE = {
    "PairLogps": "a container: tests/preference/test_slopes.py",
}
