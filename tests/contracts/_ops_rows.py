"""Contract rows of jaxkit.ops."""

import jax.numpy as jnp
import numpy as np

from jaxkit import ops
from tests.contracts._contract import Bad, Contract, complex_normal

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([[True, False, True], [True, True, False]])


def _positive_definite(rng: np.random.Generator, n: int) -> np.ndarray:
    root = complex_normal(rng, n, n)
    return root @ root.conj().T + n * np.eye(n)


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
}

ELSEWHERE = {
    "data_mesh": "makes a mesh, not an array: tests/ops/test_sharding.py",
    "integrate": "takes a callable: tests/ops/test_ode.py",
    "match_varying": "acts only inside shard_map: tests/ops/test_sharding.py",
    "shard_batch": "places arrays, not traceable: tests/ops/test_sharding.py",
}
