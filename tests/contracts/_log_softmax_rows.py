"""Contract rows of the log-probabilities of jaxkit.ops."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkit import ops
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

TOKENS = 5
VOCABULARY = 7
MASK = np.array([True, False, True, True, False])


def _logits(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return (
        rng.standard_normal((TOKENS, VOCABULARY)),
        rng.integers(0, VOCABULARY, TOKENS, np.int32),
    )


def _head(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return (
        rng.standard_normal((TOKENS, 3)),
        rng.standard_normal((VOCABULARY, 3)),
        rng.integers(0, VOCABULARY, TOKENS, np.int32),
    )


def _scaled_head(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    hidden, weight, labels = _head(rng)
    bias = rng.standard_normal(VOCABULARY)
    temperature, cap = rng.uniform(0.5, 2.0, 2)
    return hidden, weight.T, bias, temperature, cap, labels


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its options as positional arguments that have gradients."""

    def call(hidden, weight, bias, temperature, logit_softcap, labels, **kwargs):
        return function(
            hidden,
            weight,
            labels,
            bias=bias,
            temperature=temperature,
            logit_softcap=logit_softcap,
            vocab_axis=1,
            **kwargs,
        )

    return call


def _flat(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


_LABELS = np.zeros(2, np.int32)
_HEAD_EXTREMES = (
    (np.full((2, 3), 1e4), np.array([[1.0] * 3, [-1.0] * 3]), _LABELS),
    (np.ones((2, 3)), np.ones((4, 3)), np.full(2, -100, np.int32)),
    (np.ones((2, 3)), np.ones((1, 3)), _LABELS),
    (np.ones((0, 3)), np.ones((4, 3)), _LABELS[:0]),
)


def _head_bad() -> tuple[Bad, ...]:
    head = _flat(2, 3), _flat(4, 3), _LABELS
    bad = lambda error, match, *args, **kwargs: Bad(
        error=error, match=match, args=args or head, kwargs=kwargs
    )
    return (
        bad(TypeError, r"`hidden`.*int32", _flat(2, 3, dtype=np.int32), *head[1:]),
        bad(TypeError, r"`labels`.*float32", *head[:2], _flat(2)),
        bad(
            ValueError,
            r"`labels` must have shape \(2,\).*\(3,\)",
            *head[:2],
            _LABELS[[0, 0, 0]],
        ),
        bad(
            ValueError,
            r"`weight` must have shape \(V, 3\).*\(4, 2\)",
            head[0],
            _flat(4, 2),
            _LABELS,
        ),
        bad(ValueError, r"`weight` must have shape \(3, V\).*\(4, 3\)", vocab_axis=1),
        bad(
            ValueError,
            r"`weight` must have at least 1 entries",
            head[0],
            _flat(0, 3),
            _LABELS,
        ),
        bad(ValueError, r"`vocab_axis` must be 0 or 1, got 2", vocab_axis=2),
        bad(ValueError, r"`chunk_size` must be at least 1, got 0", chunk_size=0),
        bad(ValueError, r"`chunk_size` must be at most 4.*got 5", chunk_size=5),
        bad(TypeError, r"`chunk_size` must be an integer", chunk_size=2.0),
        bad(ValueError, r"`bias` must have shape \(4,\), got \(3,\)", bias=_flat(3)),
        bad(
            ValueError, r"`temperature` must be a scalar.*\(2,\)", temperature=_flat(2)
        ),
        bad(ValueError, r"`logit_softcap` must be a scalar", logit_softcap=_flat(2)),
        bad(TypeError, r"`where` must have dtype bool, got float32", where=_flat(2)),
        bad(ValueError, r"`where` must broadcast", where=jnp.ones(3, bool)),
    )


_HEAD = functools.partial(
    Contract,
    samples=_head,
    hyper={"temperature": (1.0, 2.0), "logit_softcap": (4.0, 8.0)},
    differentiable=(0, 1),
    mask=lambda: MASK,
    poisoned=(0,),
    loss=True,
    low=6e-2,
    bad=_head_bad(),
)

ROWS = {
    "linear_selected_log_probs": _HEAD(
        function=ops.linear_selected_log_probs,
        # Two tiles, the second of which begins in the first.
        kwargs={"chunk_size": 4},
    ),
    "linear_selected_log_probs:masked tokens skipped": _HEAD(
        function=ops.linear_selected_log_probs,
        kwargs={"chunk_size": 3, "skip_masked": True},
    ),
    "token_statistics": Contract(
        function=_scaled(ops.token_statistics),
        samples=_scaled_head,
        kwargs={"chunk_size": 4},
        differentiable=(0, 1, 2, 3, 4),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        # The label may be the first by less than the rounding of bfloat16.
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`bias` must have shape \(7,\), got \(6,\)",
                args=(_flat(2, 3), _flat(3, 7), _flat(6), 1.0, 1.0, _LABELS),
            ),
        ),
    ),
    "token_statistics:no bias": Contract(
        function=ops.token_statistics,
        samples=_head,
        differentiable=(0, 1),
        vmapped=(),
        low=None,
        extremes=_HEAD_EXTREMES,
        bad=_head_bad()[:4],
    ),
    "selected_log_probs": Contract(
        function=ops.selected_log_probs,
        samples=_logits,
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=(
            (1e4 * np.eye(3), np.arange(3, dtype=np.int32)),
            (np.zeros((2, 3)), np.full(2, -1, np.int32)),
            (np.zeros((2, 1)), _LABELS),
            (np.zeros((0, 3)), _LABELS[:0]),
        ),
        bad=(
            Bad(
                error=TypeError,
                match=r"`logits`.*int32",
                args=(_flat(2, 3, dtype=np.int32), _LABELS),
            ),
            Bad(
                error=TypeError,
                match=r"`labels`.*float32",
                args=(_flat(2, 3), _flat(2)),
            ),
            Bad(
                error=ValueError,
                match=r"`labels` must have shape \(3,\).*got \(2,\)",
                args=(_flat(3, 2), _LABELS),
            ),
            Bad(
                error=ValueError,
                match=r"`logits` must have at least 1 entries",
                args=(_flat(2, 0), _LABELS),
            ),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2,\), got \(3,\)",
                args=(_flat(2, 3), _LABELS),
                kwargs={"where": jnp.ones(3, bool)},
            ),
        ),
    ),
    "sequence_log_probs": Contract(
        function=ops.sequence_log_probs,
        samples=lambda rng: (-rng.uniform(0.0, 2.0, (2, TOKENS)),),
        kwargs={"length_normalize": True},
        differentiable=(0,),
        mask=lambda: np.stack([MASK, ~MASK]),
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((0, 3)),), (np.zeros((3, 0)),)),
        bad=(
            Bad(
                error=TypeError,
                match=r"`token_log_probs`.*int32",
                args=(_flat(3, dtype=np.int32),),
            ),
            Bad(
                error=ValueError,
                match=r"`axis` must be an axis.*\(2, 5\), got 2",
                kwargs={"axis": 2},
            ),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2, 5\), got \(2,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
        ),
    ),
    "segment_log_probs": Contract(
        function=ops.segment_log_probs,
        samples=lambda rng: (
            -rng.uniform(0.0, 2.0, (2, TOKENS)),
            rng.integers(-1, 3, (2, TOKENS), np.int32),
        ),
        kwargs={"num_segments": 3},
        differentiable=(0,),
        mask=lambda: np.stack([MASK, MASK]),
        poisoned=(0,),
        loss=True,
        extremes=(
            (np.zeros((0, 3)), np.zeros((0, 3), np.int32)),
            (np.zeros((2, 0)), np.zeros((2, 0), np.int32)),
            (np.zeros(3), np.full(3, -1, np.int32)),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`num_segments` must be at least 1, got 0",
                kwargs={"num_segments": 0},
            ),
            Bad(
                error=TypeError,
                match=r"`segment_ids`.*float32",
                args=(_flat(3), _flat(3)),
            ),
            Bad(
                error=ValueError,
                match=r"`token_log_probs` and `segment_ids`.*\(3,\) and \(2,\)",
                args=(_flat(3), _LABELS),
            ),
            Bad(
                error=ValueError,
                match=r"`token_log_probs` must have at least 1 axes",
                args=(_flat(), _LABELS[0]),
            ),
        ),
    ),
}

ELSEWHERE = {
    "TokenStatistics": "a container: tests/ops/test_log_softmax.py",
}
