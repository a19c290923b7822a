"""Contract rows of dag: sparse, nonlinear and baseline structure learners."""

import jax
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


def basis(rng: np.random.Generator) -> dag.BasisStats:
    """Moments of two features for each of three nodes, as NumPy arrays."""
    features = rng.standard_normal((60, 6))
    x = features[:, ::2] + np.roll(features[:, 1::2], 1, axis=1)
    return dag.BasisStats(
        features.T @ features / 60 + 1e-3 * np.eye(6),
        features.T @ x / 60,
        (x * x).mean(0),
        np.full(3, 2.0),
        np.asarray(60.0),
    )


def networks(rng: np.random.Generator) -> dag.MlpParams:
    """Networks of two hidden units for three nodes."""
    return dag.MlpParams(
        hidden=rng.standard_normal((3, 3, 2)),
        hidden_bias=rng.standard_normal((3, 2)),
        out=rng.standard_normal((3, 2)),
        out_bias=rng.standard_normal(3),
    )


EYE = jnp.eye(D)

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
        kwargs={"num_restarts": 2, "max_sweeps": 1},
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
    "basis_features": Contract(
        function=dag.basis_features,
        samples=lambda rng: (rng.standard_normal((20, 3)),),
        kwargs={"num_features": 3},
        low=None,
        bad=(
            Bad(error=ValueError, match="`x` must have shape", args=(jnp.ones(3),)),
            Bad(error=ValueError, match="num_features", kwargs={"num_features": 0}),
        ),
    ),
    "basis_stats": Contract(
        function=dag.basis_stats,
        samples=lambda rng: (rng.standard_normal((20, 3)),),
        kwargs={"num_features": 3},
        hyper={"ridge": (1e-3, 1e-2)},
        low=None,
        bad=(
            Bad(error=ValueError, match="`x` must have shape", args=(jnp.ones(3),)),
            Bad(error=ValueError, match="num_features", kwargs={"num_features": 0}),
        ),
    ),
    "basis_order_loss": Contract(
        function=dag.basis_order_loss,
        samples=lambda rng: (basis(rng), rng.permutation(3).astype(np.int32)),
        low=1e-1,
        loss=True,
        bad=(
            Bad(error=TypeError, match="BasisStats", args=(EYE, np.arange(4))),
            Bad(error=ValueError, match="`variance`", kwargs={"variance": "v"}),
        ),
    ),
    "basis_order_search": Contract(
        function=dag.basis_order_search,
        samples=lambda rng: (basis(rng),),
        kwargs={"num_restarts": 2, "max_sweeps": 1},
        random=True,
        vmapped=(1,),
        low=None,
        bad=(
            Bad(error=ValueError, match="`variance`", kwargs={"variance": "v"}),
            Bad(error=ValueError, match="num_restarts", kwargs={"num_restarts": 0}),
            Bad(error=ValueError, match="max_sweeps", kwargs={"max_sweeps": 0}),
        ),
    ),
    "basis_prune": Contract(
        function=dag.basis_prune,
        samples=lambda rng: (basis(rng), rng.permutation(3).astype(np.int32)),
        hyper={"significance": (1e-3, 1e-1)},
        low=None,
        bad=(Bad(error=TypeError, match="BasisStats", args=(EYE, np.arange(4))),),
    ),
    "notears_objective": Contract(
        function=dag.notears_objective,
        samples=lambda rng: (stats(rng), 0.3 * rng.standard_normal((D, D))),
        hyper={"rho": (1.0, 10.0), "alpha": (0.5, 2.0)},
        differentiable=(1,),
        low=None,
        bad=(Bad(error=TypeError, match="GramStats", args=(EYE, EYE)),),
    ),
    "notears": Contract(
        function=dag.notears,
        samples=lambda rng: (stats(rng),),
        kwargs={"config": dag.NotearsConfig(max_outer=2, max_inner=5)},
        low=None,
        bad=(
            Bad(error=TypeError, match="GramStats", args=(EYE,)),
            Bad(error=ValueError, match="`weights`", kwargs={"weights": jnp.eye(3)}),
        ),
    ),
    "init_mlp": Contract(
        function=dag.init_mlp,
        samples=lambda rng: (3,),
        kwargs={"num_hidden": 2},
        random=True,
        vmapped=(),
        low=None,
        bad=(
            Bad(error=ValueError, match="num_nodes", args=(jax.random.key(0), 1)),
            Bad(error=ValueError, match="num_hidden", kwargs={"num_hidden": 0}),
        ),
    ),
    "mlp_predict": Contract(
        function=dag.mlp_predict,
        samples=lambda rng: (networks(rng), rng.standard_normal((4, 3))),
        differentiable=(0, 1),
        bad=(
            Bad(error=TypeError, match="MlpParams", args=(EYE, EYE)),
            Bad(error=ValueError, match="`adjacency`", kwargs={"adjacency": EYE}),
        ),
    ),
    "mlp_adjacency": Contract(
        function=dag.mlp_adjacency,
        samples=lambda rng: (networks(rng),),
        bad=(Bad(error=TypeError, match="MlpParams", args=(EYE,)),),
    ),
    "mlp_loss": Contract(
        function=dag.mlp_loss,
        samples=lambda rng: (networks(rng), rng.standard_normal((4, 3))),
        hyper={"l1": (0.01, 0.1), "l2": (0.01, 0.1)},
        differentiable=(0, 1),
        loss=True,
        bad=(Bad(error=TypeError, match="MlpParams", args=(EYE, EYE)),),
    ),
    "notears_mlp": Contract(
        function=dag.notears_mlp,
        samples=lambda rng: (networks(rng), rng.standard_normal((9, 3))),
        kwargs={"config": dag.NotearsConfig(max_outer=2, max_inner=4)},
        low=None,
        bad=(Bad(error=TypeError, match="MlpParams", args=(EYE, EYE)),),
    ),
    "mlp_order_search": Contract(
        function=dag.mlp_order_search,
        samples=lambda rng: (
            networks(rng),
            rng.standard_normal((9, 3)),
            rng.permutation(3).astype(np.int32),
        ),
        kwargs={"config": dag.MlpSearchConfig(max_steps=4, max_moves=2)},
        low=None,
        bad=(
            Bad(
                error=TypeError,
                match="MlpParams",
                args=(EYE, EYE, np.arange(4, dtype=np.int32)),
            ),
        ),
    ),
}
ELSEWHERE: dict[str, str] = {
    "BasisResult": "a record of arrays; what makes one is checked",
    "BasisStats": "a record of arrays; what makes one is checked",
    "bootstrap_edges": "takes a function: tests/dag/test_notears.py",
    "DagmaConfig": "settings: tests/dag/test_descent.py",
    "DagmaResult": "a record of arrays; what makes one is checked",
    "GolemConfig": "settings: tests/dag/test_descent.py",
    "GolemResult": "a record of arrays; what makes one is checked",
    "BossResult": "a record of arrays; what makes one is checked",
    "MlpOrderResult": "a record of arrays; what makes one is checked",
    "MlpParams": "a record of arrays; what makes one is checked",
    "MlpSearchConfig": "settings: tests/dag/test_mlp.py",
    "NotearsConfig": "settings: tests/dag/test_notears.py",
    "NotearsResult": "a record of arrays; what makes one is checked",
    "NotearsMlpResult": "a record of arrays; what makes one is checked",
    "ParentSet": "a record of arrays; what makes one is checked",
}
