"""Contract rows of hypersphere: streaming, sharded and sampled classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import hypersphere
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

LABELS = np.array([0, 4])
SFACE = hypersphere.SFaceConfig.small_scale()
ARCFACE = hypersphere.MarginConfig.arcface(scale=8.0)


def _problem(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), LABELS


# Parallel and opposite to the own class, beside classes of length zero; then embeddings
# of length zero and very long ones.
_POLES = (
    np.eye(3)[[0, 0]],
    np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [-1.0, 0, 0]]),
    LABELS,
)
_FAR = (
    np.array([[0.0, 0, 0], [1e15, 1e15, 0]]),
    np.array([[1e-15, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1e15, 0], [0, 0, 1.0]]),
    LABELS,
)

_SMALL = (np.ones((2, 3), np.float32), np.ones((5, 3), np.float32), LABELS)
_BAD = (
    Bad(
        error=ValueError,
        match=r"`class_weights` must have shape \(classes, dim\), got \(5, 1, 3\)",
        args=(_SMALL[0], _SMALL[1][:, None], LABELS),
    ),
    Bad(
        error=ValueError,
        match=r"`labels` must be -1 or lie in \[0, 5\), got 1 to 5",
        args=(*_SMALL[:2], LABELS + 1),
    ),
    Bad(
        error=ValueError,
        match="`class_chunk` must be at least 1, got 0",
        args=_SMALL,
        kwargs={"class_chunk": 0},
    ),
    Bad(
        error=ValueError,
        match="`active_limit` must be at least 0, got -1",
        args=_SMALL,
        kwargs={"active_limit": -1},
    ),
    Bad(
        error=ValueError,
        match=r"`active_eps` must lie in \[0, 1\), got 1",
        args=_SMALL,
        kwargs={"active_eps": 1.0},
    ),
    Bad(
        error=TypeError,
        match="`compute_dtype` must have a real floating dtype, got int32",
        args=_SMALL,
        kwargs={"compute_dtype": jnp.int32},
    ),
)

_STREAMING = Contract(
    function=hypersphere.streaming_loss,
    samples=_problem,
    kwargs={"config": SFACE, "class_chunk": 2},
    hyper={"active_eps": (1e-6, 1e-3)},
    mask=lambda: np.array([True, False]),
    poisoned=(0,),
    loss=True,
    low=6e-2,
    bad=_BAD,
)

_METRICS = Contract(
    function=hypersphere.loss_with_metrics,
    samples=_problem,
    kwargs={"config": ARCFACE, "class_chunk": 2},
    mask=lambda: np.array([True, False]),
    poisoned=(0,),
    loss=True,
    low=6e-2,
    bad=_BAD[2:4],
)

ROWS: dict[str, Contract] = {
    "streaming_loss": _STREAMING,
    "streaming_loss:derivatives": dataclasses.replace(
        _STREAMING,
        kwargs={"config": ARCFACE, "class_chunk": 2, "all_derivatives": True},
        hyper={},
        differentiable=(0, 1),
        extremes=(_POLES, _FAR),
        bad=_BAD[:1],
    ),
    "loss_with_metrics": dataclasses.replace(
        _METRICS, mask=None, poisoned=(), vmapped=(), low=None
    ),
    "loss_with_metrics:full": dataclasses.replace(_METRICS, bad=_BAD[:1]),
    "pad_classes": Contract(
        function=hypersphere.pad_classes,
        samples=lambda rng: (rng.standard_normal((3, 2)),),
        kwargs={"multiple": 4},
        differentiable=(0,),
        bad=(
            Bad(
                error=ValueError,
                match="`multiple` must be at least 1, got 0",
                kwargs={"multiple": 0},
            ),
            Bad(
                error=TypeError,
                match="`class_weights` must have a real floating dtype",
                args=(np.ones((3, 2), int),),
            ),
        ),
    ),
    "sample_classes": Contract(
        function=hypersphere.sample_classes,
        samples=lambda rng: (rng.integers(0, 9, 3),),
        kwargs={"num_classes": 9, "num_sampled": 5},
        random=True,
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match="`num_sampled` must be at least 3, got 2",
                kwargs={"num_sampled": 2},
            ),
            Bad(
                error=ValueError,
                match="`num_sampled` must be at most `num_classes` = 9, got 10",
                kwargs={"num_sampled": 10},
            ),
            Bad(
                error=TypeError,
                match="`labels` must have an integer dtype, got float32",
                args=(jax.random.key(0), np.ones(3, np.float32)),
            ),
            Bad(
                error=ValueError,
                match=r"`labels` must have shape \(batch,\), got \(\)",
                args=(jax.random.key(0), np.array(1)),
            ),
        ),
    ),
}
ELSEWHERE: dict[str, str] = {
    "HypersphereMetrics": "a result, checked with loss_with_metrics",
    "SampledClasses": "a result, checked with sample_classes",
    "class_sharded_loss": "needs a mesh: tests/hypersphere/test_sharded.py",
    "make_sharded_loss": "returns a function: tests/hypersphere/test_sharded.py",
}
