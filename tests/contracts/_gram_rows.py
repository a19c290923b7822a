"""Contract rows of the Gram, the accumulators and the remedies of entanglement."""

from typing import Any

import numpy as np

from jaxkit import entanglement
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

PAIRS = 2
LENGTH = 3
FEATURES = 4


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 5, (2 * PAIRS, LENGTH)).astype(np.int32)


def _input(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((2 * PAIRS, LENGTH, FEATURES))


def _mask() -> np.ndarray:
    return np.arange(2 * PAIRS * LENGTH).reshape(2 * PAIRS, LENGTH) % 3 != 0


_ACCUMULATOR_BAD = Bad(
    error=ValueError,
    match=r"`accumulator` must have shape \(3, B\).*got \(3, 3\)",
    kwargs={"accumulator": _ones(3, 3)},
)


def _vector(function: Any, name: str) -> Contract:
    return Contract(
        function=function,
        samples=lambda rng: (_input(rng), rng.standard_normal(FEATURES)),
        differentiable=(0, 1),
        vmapped=(0,),
        mask=_mask,
        poisoned=(0,),
        bad=(
            _ACCUMULATOR_BAD,
            Bad(
                error=ValueError,
                match=rf"`{name}` must have shape \(4,\).*got \(3,\)",
                args=(_ones(2, 4), _ones(3)),
            ),
        ),
    )


def _masks_of_two(c: Any, r: Any, where: Any = None, **options: Any) -> Any:
    return entanglement.contrast_mask(
        c, r, chosen_where=where, rejected_where=where, **options
    )


def _masked_loss(*args: Any, where: Any = None, **options: Any) -> Any:
    return entanglement.token_mask_loss(
        *args, chosen_where=where, rejected_where=where, **options
    )


def _gram(rng: np.random.Generator) -> entanglement.PairGram:
    chosen, rejected = rng.uniform(0.5, 2.0, (2, 3))
    return entanglement.PairGram(chosen, rng.uniform(-0.3, 0.3, 3), rejected)


ROWS: dict[str, Contract] = {
    "accumulator_bias": _vector(entanglement.accumulator_bias, "bias"),
    "accumulator_dense": Contract(
        function=entanglement.accumulator_dense,
        samples=lambda rng: (_input(rng), rng.standard_normal((FEATURES, 2))),
        differentiable=(0, 1),
        vmapped=(0,),
        mask=_mask,
        poisoned=(0,),
        low=6e-2,
        bad=(
            _ACCUMULATOR_BAD,
            Bad(
                error=ValueError,
                match=r"`weight` must have shape \(4, any\).*got \(3, 4\)",
                args=(_ones(2, 4), _ones(3, 4)),
            ),
            Bad(
                error=TypeError,
                match=r"`x`.*int32",
                args=(_ones(2, 4, dtype=np.int32), _ones(4, 4)),
            ),
        ),
    ),
    "accumulator_embedding": Contract(
        function=entanglement.accumulator_embedding,
        samples=lambda rng: (_tokens(rng), rng.standard_normal((5, FEATURES))),
        differentiable=(1,),
        vmapped=(0,),
        bad=(
            _ACCUMULATOR_BAD,
            Bad(
                error=TypeError,
                match=r"`tokens` must have an integer dtype, got float32",
                args=(_ones(2, 3), _ones(5, 2)),
            ),
        ),
    ),
    "accumulator_positions": Contract(
        function=entanglement.accumulator_positions,
        samples=lambda rng: (_input(rng), rng.standard_normal((5, FEATURES))),
        differentiable=(0, 1),
        vmapped=(0,),
        mask=_mask,
        poisoned=(0,),
        bad=(
            _ACCUMULATOR_BAD,
            Bad(
                error=ValueError,
                match=r"`table` must have at least 3 rows, got 2",
                args=(_ones(2, 3, 4), _ones(2, 4)),
            ),
        ),
    ),
    "accumulator_scale": _vector(entanglement.accumulator_scale, "scale"),
    "calibrate": Contract(
        function=entanglement.calibrate,
        samples=lambda rng: (
            entanglement.CalibrationState(*rng.uniform(0.2, 0.8, (3,))),
            _gram(rng),
            entanglement.Coefficients(*rng.uniform(0.1, 1.0, (2, 3))),
        ),
        hyper={"decay": (0.9, 0.5)},
        differentiable=(0, 1, 2),
        low=6e-2,
        extremes=(
            (
                entanglement.CalibrationState(*np.zeros(3)),
                entanglement.PairGram(*np.zeros((3, 2))),
                entanglement.Coefficients(*np.zeros((2, 2))),
            ),
            (
                entanglement.CalibrationState(*np.zeros(3)),
                entanglement.PairGram(*np.full((3, 2), 1e-30)),
                entanglement.Coefficients(*np.full((2, 2), 1e-37)),
            ),
        ),
        bad=(
            Bad(
                error=TypeError,
                match=r"`gram.chosen`.*int32",
                args=(
                    entanglement.CalibrationState(*np.zeros(3, np.float32)),
                    entanglement.PairGram(*np.ones((3, 2), np.int32)),
                    entanglement.Coefficients(*np.ones((2, 2), np.float32)),
                ),
            ),
        ),
    ),
    "calibrated_log_probs": Contract(
        function=entanglement.calibrated_log_probs,
        samples=lambda rng: (*rng.standard_normal((2, 3)), rng.uniform(0.5, 2.0, ())),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"broadcast together.*`chosen_logps` \(2,\)",
                args=(_ones(2), _ones(3), _ones()),
            ),
        ),
    ),
    "combine_gradients": Contract(
        function=entanglement.combine_gradients,
        samples=lambda rng: tuple(
            {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(3)}
            for _ in range(2)
        ),
        hyper={"eps": (1e-12, 1e-6)},
        differentiable=(0, 1),
        extremes=(
            (np.zeros(3), np.zeros(3)),
            (np.zeros(3), np.ones(3)),
            (np.ones(3), np.ones(3)),
            (np.full(3, 1e-25), np.full(3, 1e15)),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`method` must be one of.*got 'mean'",
                kwargs={"method": "mean"},
            ),
            Bad(
                error=ValueError,
                match=r"`form` must be one of.*got 'harmonic'",
                kwargs={"form": "harmonic"},
            ),
            Bad(
                error=ValueError,
                match=r"must have the same structure",
                args=(_ones(2), (_ones(2),)),
            ),
        ),
    ),
    "combine_gradients:unit": Contract(
        function=entanglement.combine_gradients,
        samples=lambda rng: tuple(rng.standard_normal((2, 3))),
        kwargs={"form": "unit"},
        differentiable=(0, 1),
        extremes=((np.zeros(3), np.zeros(3)), (np.ones(3), np.ones(3))),
        bad=(
            Bad(error=TypeError, match="int32", args=(_ones(1, dtype=np.int32),) * 2),
        ),
    ),
    "contrast_mask": Contract(
        function=_masks_of_two,
        samples=lambda rng: tuple(rng.integers(0, 3, (2, 2, 5)).astype(np.int32)),
        low=None,
        bad=(
            Bad(
                error=TypeError,
                match=r"`chosen_tokens` must have an integer dtype, got float32",
                args=(_ones(3), _ones(3)),
            ),
            Bad(
                error=ValueError,
                match=r"`chosen_tokens` and `rejected_tokens`.*\(3,\) and \(2,\)",
                args=(_ones(3, dtype=np.int32), _ones(2, dtype=np.int32)),
            ),
        ),
    ),
    "init_calibration": Contract(
        function=entanglement.init_calibration,
        samples=lambda rng: (),
        vmapped=(),
        low=None,
    ),
    "token_mask_loss": Contract(
        function=_masked_loss,
        samples=lambda rng: (
            *rng.standard_normal((2, 2, 3)),
            *rng.uniform(0.1, 0.9, (2, 2, 3)),
        ),
        hyper={"beta": (0.1, 0.5), "sparsity": (0.003, 0.1)},
        differentiable=(0, 1, 2, 3),
        mask=lambda: np.array([[True, False, True], [True, True, False]]),
        poisoned=(0, 1, 2, 3),
        loss=True,
        extremes=tuple(
            (np.full((1, 2), r), np.full((1, 2), -r), *np.full((2, 1, 2), g))
            for r in (0.0, 1e4, -1e4)
            for g in (0.0, 1.0)
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`chosen_log_ratios` and `chosen_gates`.*\(2,\) and \(3,\)",
                args=(_ones(2), _ones(2), _ones(3), _ones(2)),
            ),
            Bad(
                error=ValueError,
                match=r"same leading axes, got \(2, 3\) and \(1, 3\)",
                args=(_ones(2, 3), _ones(1, 3), _ones(2, 3), _ones(1, 3)),
            ),
        ),
    ),
}

_GRAM = "takes a callable: tests/entanglement/test_gram.py"
_ACCUMULATOR = "takes a callable: tests/entanglement/test_accumulator.py"
_REMEDIES = "takes a callable: tests/entanglement/test_remedies.py"
ELSEWHERE: dict[str, str] = {
    "CalibrationState": "a container: tests/entanglement/test_remedies.py",
    "PairReport": "a container: tests/entanglement/test_remedies.py",
    "accumulated_pair_gram": _ACCUMULATOR,
    "accumulated_value_and_grad": _ACCUMULATOR,
    "alternating_update": _REMEDIES,
    "batch_gram": _GRAM,
    "leaf_pair_gram": _GRAM,
    "normalized_pair_value_and_grad": _REMEDIES,
    "pair_gram": _GRAM,
    "sketch_gradients": _GRAM,
    "split_value_and_grad": _REMEDIES,
    "token_gram": _GRAM,
}
