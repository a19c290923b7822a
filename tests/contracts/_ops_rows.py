"""Contract rows of jaxkit.ops."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkit import ops
from tests.contracts._contract import Bad, Contract, complex_normal

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([[True, False, True], [True, True, False]])


def _positive_definite(rng: np.random.Generator, n: int) -> np.ndarray:
    root = complex_normal(rng, n, n)
    return root @ root.conj().T + n * np.eye(n)


_VECTORS = ((np.array([[0.0, 1e30, 1e-30], [0.0, -1e30, 1e-30]]),),)
_VECTORS_BAD = (
    Bad(error=TypeError, match=r"`values`.*int32", args=(jnp.ones((3, 2), int),)),
    Bad(
        error=ValueError,
        match=r"`values` must have at least 1 entries along axis 0, got shape \(0, 2\)",
        args=(np.ones((0, 2), np.float32),),
    ),
)

ROWS = {
    "abs_squared": Contract(
        function=ops.abs_squared,
        samples=lambda rng: (complex_normal(rng, 2, 3),),
        differentiable=(0,),
        extremes=((np.zeros(3),), (np.zeros(3, np.complex128),)),
        bad=(Bad(error=TypeError, match=r"`values`.*int32", args=(jnp.arange(3),)),),
    ),
    "cholesky_solve": Contract(
        function=ops.cholesky_solve,
        samples=lambda rng: (_positive_definite(rng, 3), complex_normal(rng, 3, 2)),
        # A Cholesky factorization reads one triangle, so a generic direction of
        # the matrix is not a derivative of its Hermitian extension: see
        # tests/ops/test_linalg.py for the Hermitian one.
        differentiable=(1,),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`matrix` must have shape \(\.\.\., 3, 3\), got \(2, 3\)",
                args=(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32)),
            ),
            Bad(
                error=ValueError,
                match=r"`rhs`.*got \(3, 1\)",
                args=(np.eye(2, dtype=np.float32), np.ones((3, 1), np.float32)),
            ),
            Bad(
                error=TypeError,
                match=r"`rhs`.*int32",
                args=(np.eye(2, dtype=np.float32), np.ones((2, 1), np.int32)),
            ),
        ),
    ),
    "squared_distances": Contract(
        function=ops.squared_distances,
        samples=lambda rng: (
            rng.standard_normal((3, 2)),
            rng.standard_normal((4, 2)),
        ),
        differentiable=(0, 1),
        loss=True,
        extremes=((np.ones((2, 2)), np.ones((1, 2))), (1e15 * np.eye(2), np.eye(2))),
        bad=(
            Bad(
                error=ValueError,
                match=r"`y` must have shape \(\.\.\., any, 2\), got \(3, 1\)",
                args=(np.eye(2, dtype=np.float32), np.ones((3, 1), np.float32)),
            ),
            Bad(
                error=ValueError,
                match=r"`y` must have at least 1 entries",
                args=(np.eye(2, dtype=np.float32), np.ones((0, 2), np.float32)),
            ),
            Bad(
                error=TypeError,
                match=r"`x`.*int32",
                args=(np.ones((2, 2), np.int32), np.eye(2, dtype=np.float32)),
            ),
        ),
    ),
    "masked_fill": Contract(
        function=ops.masked_fill,
        samples=lambda rng: (rng.standard_normal((2, 3)),),
        hyper={"fill": (0.0, 2.0)},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        bad=(
            Bad(
                error=TypeError,
                match=r"`where` must have dtype bool, got int32",
                kwargs={"where": jnp.ones((2, 3), jnp.int32)},
            ),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2, 3\), got \(3, 2\)",
                kwargs={"where": jnp.ones((3, 2), bool)},
            ),
            Bad(error=TypeError, match=r"`values`.*bool", args=(jnp.ones(3, bool),)),
        ),
    ),
    "masked_mean": Contract(
        function=ops.masked_mean,
        samples=lambda rng: (rng.standard_normal((2, 3)),),
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((0, 3)),),),
        bad=(
            Bad(error=TypeError, match=r"`values`.*int32", args=(jnp.arange(3),)),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2, 3\), got \(2,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
        ),
    ),
    "masked_sum": Contract(
        function=ops.masked_sum,
        samples=lambda rng: (rng.standard_normal((2, 3)),),
        kwargs={"axis": -1},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((0, 3)),),),
        bad=(
            Bad(
                error=TypeError,
                match=r"`where`.*float32",
                kwargs={"where": jnp.ones((2, 3))},
            ),
        ),
    ),
    "safe_divide": Contract(
        function=ops.safe_divide,
        samples=lambda rng: (
            rng.standard_normal((2, 3)),
            rng.uniform(0.5, 2.0, (2, 3)),
        ),
        hyper={"fill": (0.0, 1.0)},
        differentiable=(0, 1),
        low=6e-2,
        extremes=((np.ones(2), np.zeros(2)), (np.zeros(2), np.zeros(2))),
        bad=(
            Bad(
                error=TypeError,
                match=r"`denominator`.*int32",
                args=(np.ones(2, np.float32), np.ones(2, np.int32)),
            ),
        ),
    ),
    "safe_norm": Contract(
        function=ops.safe_norm,
        samples=lambda rng: (rng.standard_normal((3, 2)),),
        kwargs={"axis": 0},
        differentiable=(0,),
        loss=True,
        extremes=_VECTORS,
        bad=_VECTORS_BAD,
    ),
}


def _attention(
    rng: np.random.Generator,
    *,
    beta: bool = False,
    decay: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, ...]:
    """Draws queries, keys and values of 7 tokens: two whole chunks of 3, and a rest."""
    args = [
        complex_normal(rng, 7, 2, 3),
        complex_normal(rng, 7, 2, 3),
        complex_normal(rng, 7, 2, 2),
    ]
    if beta:
        args = [arg.real / 2 for arg in args] + [rng.uniform(0.1, 0.9, (7, 2))]
    if decay is not None:
        args.append(-rng.uniform(0.1, 1.0, (7, *decay)))
    return tuple(args)


def _flat(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _attention_bad(**more: Any) -> tuple[Bad, ...]:
    """The refusals that the three attention functions share."""
    q, k, v = _flat(4, 1, 3), _flat(4, 1, 3), _flat(4, 1, 2)
    tail = more.pop("tail", ())
    bad = lambda error, match, *args, **kwargs: Bad(
        error=error, match=match, args=args or (q, k, v, *tail), kwargs=kwargs
    )
    return (
        bad(ValueError, r"`query` and `key`|`key`.*shape", _flat(4, 1, 2), k, v, *tail),
        bad(ValueError, r"`value`.*\(5, 1, 2\)|`value`", q, k, _flat(5, 1, 2), *tail),
        bad(TypeError, r"`query`.*int32", _flat(4, 1, 3, dtype=np.int32), k, v, *tail),
        bad(ValueError, r"`query`", _flat(3), _flat(3), _flat(2), *tail),
        bad(ValueError, r"`chunk_size` must be at least 1, got 0", chunk_size=0),
        bad(
            TypeError,
            r"`log_decay`.*complex64",
            log_decay=np.ones((4, 1), np.complex64),
        ),
        bad(ValueError, r"`log_decay`.*\(3, 1\)", log_decay=_flat(3, 1)),
    )


_ZEROS = tuple(np.zeros((5, 1, size)) for size in (2, 2, 2))
_HUGE = tuple(1e4 * np.ones((5, 1, size)) for size in (2, 2, 2))
_FORGET = (*(np.ones((5, 1, size)) for size in (2, 2, 2)), np.full((5, 1), -1e4))

ATTENTION_ROWS = {
    "linear_attention": Contract(
        function=ops.linear_attention,
        samples=_attention,
        kwargs={"chunk_size": 3},
        hyper={"scale": (1.0, 0.5)},
        differentiable=(0, 1, 2),
        low=6e-2,
        extremes=(_ZEROS, _HUGE),
        bad=(
            *_attention_bad(),
            Bad(
                error=ValueError,
                match=r"`implementation` must be one of.*got 'fast'",
                kwargs={"implementation": "fast"},
            ),
            Bad(
                error=ValueError,
                match=r"`normalize`.*got 'softmax'",
                kwargs={"normalize": "softmax"},
            ),
            Bad(
                error=ValueError,
                match=r"`initial_state`.*\(2, 2, 2\)",
                kwargs={"initial_state": _flat(2, 2, 2)},
            ),
            Bad(
                error=TypeError,
                match=r"`segment_ids`.*float32",
                kwargs={"segment_ids": _flat(7)},
            ),
        ),
    ),
    "linear_attention:parallel, decayed by channel": Contract(
        function=lambda q, k, v, g, **kw: ops.linear_attention(
            q, k, v, log_decay=g, **kw
        ),
        samples=lambda rng: _attention(rng, decay=(2, 3)),
        kwargs={"chunk_size": 3, "implementation": "parallel"},
        differentiable=(0, 1, 2, 3),
        low=6e-2,
        bad=_attention_bad(tail=(_flat(4, 1) * 0,))[:4],
    ),
    "linear_attention:decayed, normalized by keys": Contract(
        function=lambda q, k, v, g, **kw: ops.linear_attention(
            ops.abs_squared(q), ops.abs_squared(k), v, log_decay=g, **kw
        ),
        samples=lambda rng: _attention(rng, decay=(2,)),
        kwargs={"chunk_size": 3, "normalize": "key_sum"},
        hyper={"eps": (1e-3, 1e-2)},
        differentiable=(0, 1, 2, 3),
        low=6e-2,
        extremes=(_FORGET,),
        bad=_attention_bad(tail=(_flat(4, 1) * 0,))[1:2],
    ),
    "l2_normalize": Contract(
        function=ops.l2_normalize,
        samples=lambda rng: (rng.standard_normal((3, 2)),),
        kwargs={"axis": 0},
        differentiable=(0,),
        loss=True,
        extremes=_VECTORS,
        bad=_VECTORS_BAD,
    ),
    "linear_attention_step": Contract(
        function=ops.linear_attention_step,
        samples=lambda rng: (
            complex_normal(rng, 2, 3, 2),
            complex_normal(rng, 2, 3),
            complex_normal(rng, 2, 3),
            complex_normal(rng, 2, 2),
        ),
        hyper={"scale": (1.0, 0.5)},
        differentiable=(0, 1, 2, 3),
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`state`.*\(2, 2\)",
                args=(_flat(2, 2), _flat(1, 3), _flat(1, 3), _flat(1, 2)),
            ),
        ),
    ),
    "delta_rule": Contract(
        function=ops.delta_rule,
        samples=lambda rng: _attention(rng, beta=True),
        kwargs={"chunk_size": 3},
        hyper={"scale": (1.0, 0.5)},
        differentiable=(0, 1, 2, 3),
        low=6e-2,
        extremes=((*_ZEROS, np.zeros((5, 1))),),
        bad=(
            *_attention_bad(tail=(_flat(4, 1),)),
            Bad(
                error=TypeError,
                match=r"`beta`.*complex64",
                args=(*(_flat(4, 1, 2),) * 3, np.ones((4, 1), np.complex64)),
            ),
            Bad(
                error=ValueError,
                match=r"`beta`.*\(3, 1\)",
                args=(*(_flat(4, 1, 2),) * 3, _flat(3, 1)),
            ),
        ),
    ),
    **{
        f"mesa_attention:{solver}": Contract(
            function=lambda q, k, v, ridge, **kw: ops.mesa_attention(
                q, k, v, ridge=ridge, **kw
            ),
            samples=lambda rng: (*_attention(rng), rng.uniform(1.0, 2.0, (2, 3))),
            kwargs={"chunk_size": 3, "solver": solver},
            hyper={"scale": (1.0, 0.5)},
            differentiable=(0, 1, 2, 3),
            low=6e-2,
            extremes=((*_ZEROS, np.full((1, 2), 1e-6)),),
            bad=(
                Bad(
                    error=ValueError,
                    match=r"`solver` must be one of.*got 'qr'",
                    kwargs={"solver": "qr"},
                ),
                Bad(
                    error=ValueError,
                    match=r"`ridge`.*\(5,\)",
                    args=(*(_flat(4, 1, 2),) * 3, _flat(5)),
                ),
            ),
        )
        for solver in ("solve", "cg")
    },
    "mesa_attention": Contract(
        function=ops.mesa_attention,
        samples=_attention,
        kwargs={"chunk_size": 3},
        hyper={"ridge": (1.0, 2.0), "scale": (1.0, 0.5)},
        differentiable=(0, 1, 2),
        low=6e-2,
        bad=(
            *_attention_bad(),
            Bad(
                error=ValueError,
                match=r"`log_decay` needs `solver='solve'`",
                kwargs={"log_decay": -_flat(7, 2)},
            ),
            Bad(
                error=ValueError,
                match=r"`num_steps` must be at least 1, got 0",
                kwargs={"solver": "cg", "num_steps": 0},
            ),
        ),
    ),
}

ROWS |= ATTENTION_ROWS

_VIEWS = np.array([0, 1, 0, 1, 2])


def _pairs_bad() -> tuple[Bad, ...]:
    x, y = np.ones((3, 2), np.float32), np.zeros(3, np.int32)
    bad = lambda error, match, *args: Bad(error=error, match=match, args=args)
    return (
        bad(
            ValueError, r"`embeddings` must have shape \(N, D\), got \(3,\)", y * 1.0, y
        ),
        bad(TypeError, r"`labels`.*float32", x, x[:, 0]),
        bad(ValueError, r"`labels` must have shape \(3,\).*got \(2,\)", x, y[:2]),
    )


PAIR_ROWS = {
    "labeled_pairs:full": Contract(
        function=ops.labeled_pairs,
        samples=lambda rng: (rng.standard_normal((5, 3)), _VIEWS),
        differentiable=(0,),
        mask=lambda: np.array([True, True, True, True, False]),
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((3, 2)), np.array([0, 0, 1])),),
        bad=_pairs_bad(),
    ),
    "ntxent_loss": Contract(
        function=ops.ntxent_loss,
        samples=lambda rng: (rng.standard_normal((5, 3)), _VIEWS),
        hyper={"temperature": (0.5, 0.07)},
        differentiable=(0,),
        mask=lambda: np.array([True, True, True, True, False]),
        poisoned=(0,),
        loss=True,
        extremes=(
            (np.zeros((3, 2)), np.array([0, 0, 1])),
            (np.ones((3, 2)), np.array([0, 1, 2])),
            (np.ones((3, 2)), np.array([0, 0, 0])),
            (1e30 * np.ones((3, 2)), np.array([-1, -1, -1])),
        ),
        bad=(
            *_pairs_bad(),
            Bad(
                error=ValueError,
                match=r"`temperature` must broadcast to shape \(\), got \(2,\)",
                kwargs={"temperature": np.ones(2, np.float32)},
            ),
        ),
    ),
}

ROWS |= PAIR_ROWS

ELSEWHERE = {
    "LabeledPairs": "a container: what labeled_pairs returns",
    "MesaState": "a container: tests/ops/test_mesa_attention.py",
    "data_mesh": "makes a mesh, not an array: tests/ops/test_sharding.py",
    "integrate": "takes a callable: tests/ops/test_ode.py",
    "match_varying": "acts only inside shard_map: tests/ops/test_sharding.py",
    "shard_batch": "places arrays, not traceable: tests/ops/test_sharding.py",
}
