"""Contract rows of dag: sparse, nonlinear and baseline structure learners."""

import jax.numpy as jnp
import numpy as np

from jaxkit import dag
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

D = 4


def stats(rng: np.random.Generator) -> dag.GramStats:
    """Moments of a chain with noise, as NumPy arrays."""
    weights = np.diag([1.5, -0.8, 1.2], 1) + 0.1 * np.triu(rng.random((D, D)), 1)
    x = rng.standard_normal((50, D)) @ np.linalg.inv(np.eye(D) - weights)
    x -= x.mean(0)
    count = np.asarray(50.0)
    return dag.GramStats(x.T @ x / 50, None, np.zeros(D), count, count - 1.0)


def marks(rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(D)
    upper = np.triu(rng.random((D, D)) < 0.7, 1).astype(np.int32)
    return upper[np.ix_(order, order)]


def weights(rng: np.random.Generator) -> np.ndarray:
    return 0.4 * rng.standard_normal((D, D)) * (1.0 - np.eye(D))


NO_STATS = Bad(error=TypeError, match="`stats` must be a GramStats")
EYE = jnp.eye(D)
KEY_FIRST = (np.zeros(2), None)

ROWS: dict[str, Contract] = {
    "grow_shrink": Contract(
        function=dag.grow_shrink,
        samples=lambda rng: (stats(rng), np.int32(2), rng.random(D) < 0.9),
        hyper={"penalty": (0.5, 2.0)},
        low=None,
        bad=(
            Bad(error=TypeError, match="GramStats", args=(EYE, 0, jnp.ones(D))),
            Bad(error=ValueError, match="max_parents", kwargs={"max_parents": 0}),
            Bad(
                error=TypeError, match="`penalty`", kwargs={"penalty": jnp.ones(1, int)}
            ),
        ),
    ),
    "prune": Contract(
        function=dag.prune,
        samples=lambda rng: (stats(rng), rng.permutation(D).astype(np.int32)),
        hyper={"significance": (0.01, 0.2)},
        low=None,
        bad=(
            Bad(error=ValueError, match="`rule` must be one of", kwargs={"rule": "p"}),
            Bad(error=ValueError, match="max_parents", kwargs={"max_parents": 0}),
        ),
    ),
    "dag_to_cpdag": Contract(
        function=dag.dag_to_cpdag,
        samples=lambda rng: (marks(rng),),
        low=None,
        bad=(Bad(error=ValueError, match="`adjacency`", args=(jnp.zeros((2, 3)),)),),
    ),
    "meek_closure": Contract(
        function=dag.meek_closure,
        samples=lambda rng: (marks(rng) * rng.choice(np.int32([-1, 1]), (D, D)),),
        low=None,
        bad=(
            Bad(
                error=ValueError, match="`marks`", args=(jnp.zeros((2, 3), jnp.int32),)
            ),
            Bad(error=TypeError, match="signed integer", args=(EYE,)),
        ),
    ),
    "cpdag_distance": Contract(
        function=dag.cpdag_distance,
        samples=lambda rng: (marks(rng), -np.triu(marks(rng))),
        low=None,
        bad=(
            Bad(error=TypeError, match="`first` must be signed", args=(EYE, EYE)),
            Bad(
                error=ValueError,
                match="same shape",
                args=(jnp.zeros((2, 2), jnp.int32), jnp.zeros((3, 3), jnp.int32)),
            ),
        ),
    ),
    "boss_search": Contract(
        function=dag.boss_search,
        samples=lambda rng: (stats(rng),),
        kwargs={"num_restarts": 2},
        hyper={"penalty": (1.0, 2.0)},
        random=True,
        vmapped=(1,),
        low=None,
        bad=(
            Bad(error=ValueError, match="num_restarts", kwargs={"num_restarts": 0}),
            Bad(error=ValueError, match="max_sweeps", kwargs={"max_sweeps": 0}),
            Bad(
                error=TypeError,
                match="`order` must hold",
                kwargs={"order": jnp.ones(D)},
            ),
        ),
    ),
    "dagma": Contract(
        function=dag.dagma,
        samples=lambda rng: (
            stats(rng),
            dag.DagmaConfig(
                learning_rate=0.01,
                barriers=(1.0, 0.1),
                scales=(1.0, 0.9),
                warm_steps=20,
                last_steps=20,
                check_every=10,
            ),
        ),
        vmapped=(0,),
        low=None,
        bad=(
            Bad(error=TypeError, match="GramStats", args=(EYE, None)),
            Bad(error=ValueError, match="`weights`", kwargs={"weights": jnp.eye(3)}),
        ),
    ),
    "DagmaConfig": Contract(
        function=lambda barriers, scales: (
            dag.DagmaConfig(barriers=barriers, scales=scales).scales
        ),
        samples=lambda rng: ((1.0, 0.1), (1.0, 0.9)),
        vmapped=(),
        low=None,
        bad=(Bad(error=ValueError, match="same length", args=((1.0,), (1.0, 0.9))),),
    ),
    "golem": Contract(
        function=dag.golem,
        samples=lambda rng: (stats(rng), dag.GolemConfig(num_steps=20)),
        vmapped=(0,),
        low=None,
        bad=(
            Bad(error=TypeError, match="GramStats", args=(EYE, None)),
            Bad(error=ValueError, match="`weights`", kwargs={"weights": jnp.eye(3)}),
        ),
    ),
    "GolemConfig": Contract(
        function=lambda variance: dag.GolemConfig(variance=variance).acyclicity,
        samples=lambda rng: ("ev",),
        vmapped=(),
        low=None,
        bad=(Bad(error=ValueError, match="`variance`", args=("v",)),),
    ),
}
ELSEWHERE: dict[str, str] = {
    "DagmaResult": "a record of arrays; what makes one is checked",
    "GolemResult": "a record of arrays; what makes one is checked",
    "BossResult": "a record of arrays; what makes one is checked",
    "ParentSet": "a record of arrays; what makes one is checked",
}
