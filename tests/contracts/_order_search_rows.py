"""Contract rows of dag: statistics, scores and order search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import dag
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

D = 4
ORDER = np.array([2, 0, 3, 1], np.int32)


def _stats(rng: np.random.Generator) -> dag.GramStats:
    root = rng.standard_normal((D, D))
    gram = root @ root.T + np.diag([1.0, 2.0, 3.0, 4.0])
    return dag.GramStats(gram, None, np.zeros(D), np.array(64.0), np.array(63.0))


def _order(rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(D).astype(np.int32)


def _weights(rng: np.random.Generator) -> np.ndarray:
    return 0.2 * rng.standard_normal((D, D))


def _acyclic(rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(D)
    upper = np.triu(rng.uniform(0.4, 1.0, (D, D)), 1)
    return upper[np.ix_(order, order)]


def _factors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lower = np.linalg.cholesky(_stats(rng).gram)
    return lower, np.linalg.inv(lower)


def _eye_stats() -> dag.GramStats:
    gram = jnp.diag(jnp.arange(1.0, D + 1))
    return dag.covariance_stats(gram, num_samples=64.0)


def _bad_stats(*rest: Any) -> Bad:
    return Bad(
        error=TypeError,
        match=r"`stats` must be a GramStats",
        args=(np.eye(D, dtype=np.float32), *rest),
    )


def _bad_square(name: str, dtype: Any = np.float32) -> Bad:
    return Bad(
        error=ValueError,
        match=rf"`{name}` must have shape \(d, d\).*\(2, 3\)",
        args=(np.ones((2, 3), dtype),),
    )


def _bad_key(**options: Any) -> Bad:
    return Bad(
        error=TypeError,
        match=r"`key` must be a typed key",
        args=(np.zeros(2, np.uint32), *options.pop("rest", ())),
        kwargs=options,
    )


def _given_order(function: Callable[..., Any], **options: Any) -> Contract:
    """The row of a function of moments and an order."""
    stats = _eye_stats()
    return Contract(
        function=function,
        samples=lambda rng: (_stats(rng), _order(rng)),
        bad=(
            _bad_stats(ORDER),
            Bad(
                error=TypeError,
                match=r"`order` must hold integers, got float32",
                args=(stats, np.ones(D, np.float32)),
            ),
            Bad(
                error=ValueError,
                match=r"`order` must have shape \(4,\), got \(3,\)",
                args=(stats, np.arange(3)),
            ),
        ),
        **options,
    )


def _of_matrix(function: Callable[..., Any], **options: Any) -> Contract:
    """The row of an acyclicity function or its gradient."""
    return Contract(
        function=function,
        samples=lambda rng: (np.abs(_weights(rng)),),
        bad=(
            _bad_square("matrix"),
            Bad(
                error=TypeError,
                match=r"`matrix`.*int32",
                args=(np.ones((2, 2), np.int32),),
            ),
        ),
        **options,
    )


def _of_graph(function: Callable[..., Any], name: str, **options: Any) -> Contract:
    """The row of a function of weights seen as a graph."""
    return Contract(
        function=function,
        samples=lambda rng: (_acyclic(rng),),
        bad=(_bad_square(name),),
        low=None,
        **options,
    )


def _of_weights(function: Callable[..., Any], **options: Any) -> Contract:
    """The row of a loss of moments and weights."""
    return Contract(
        function=function,
        samples=lambda rng: (_stats(rng), _weights(rng)),
        bad=(
            _bad_stats(np.zeros((D, D), np.float32)),
            Bad(
                error=ValueError,
                match=r"`weights` must have shape \(4, 4\), got \(3, 3\)",
                args=(_eye_stats(), np.zeros((3, 3), np.float32)),
            ),
        ),
        **options,
    )


def _of_samples(function: Callable[..., Any]) -> Contract:
    """The row of a loss of single samples."""
    mask = np.array([True, False, True])
    return Contract(
        function=function,
        samples=lambda rng: (_weights(rng), rng.integers(0, 2, (3, D)).astype(float)),
        differentiable=(0,),
        mask=lambda: mask,
        poisoned=(1,),
        loss=True,
        extremes=((100.0 * np.eye(D, k=1), np.ones((3, D))),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`x` must have shape \(..., 4\), got \(3, 2\)",
                args=(np.zeros((D, D), np.float32), np.zeros((3, 2), np.float32)),
            ),
        ),
    )


def _from_key(function: Callable[..., Any], *bad: Bad, **options: Any) -> Contract:
    """The row of a sampler."""
    return Contract(
        function=function,
        samples=options.pop("samples", lambda rng: ()),
        random=True,
        vmapped=options.pop("vmapped", (0,)),
        low=None,
        bad=bad,
        **options,
    )


ROWS: dict[str, Contract] = {
    "gram_stats": Contract(
        function=dag.gram_stats,
        samples=lambda rng: (rng.standard_normal((7, 3)) + 1.0,),
        kwargs={"route": "gram"},
        hyper={"ridge": (0.1, 0.3)},
        differentiable=(0,),
        mask=lambda: np.array([True, False, True, True, True, False, True]),
        poisoned=(0,),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`x` must have shape \(n, d\).*\(3,\)",
                args=(np.ones(3, np.float32),),
            ),
            Bad(
                error=ValueError,
                match=r"`route` must be one of.*'qr'",
                kwargs={"route": "qr"},
            ),
            Bad(
                error=ValueError,
                match=r"more rows than columns unless `ridge`.*\(3, 3\)",
                args=(np.eye(3, dtype=np.float32),),
                kwargs={"ridge": 0.0},
            ),
            Bad(
                error=ValueError,
                match=r"`ridge` must be at least 0, got -1",
                kwargs={"ridge": -1.0},
            ),
            Bad(
                error=ValueError,
                match=r"`weights` must have shape \(..., 7\), got \(3,\)",
                kwargs={"weights": np.ones(3, np.float32)},
            ),
            Bad(
                error=TypeError, match=r"`x`.*int32", args=(np.ones((7, 3), np.int32),)
            ),
        ),
    ),
    "covariance_stats": Contract(
        function=dag.covariance_stats,
        samples=lambda rng: (_stats(rng).gram,),
        hyper={"ridge": (0.1, 0.3), "num_samples": (10.0, 20.0)},
        loss=True,
        bad=(_bad_square("covariance"),),
    ),
    "order_cholesky": _given_order(dag.order_cholesky),
    "order_loss": _given_order(dag.order_loss, differentiable=(0,), loss=True),
    "residual_variances": _given_order(dag.residual_variances),
    "ols_given_order": _given_order(dag.ols_given_order, differentiable=(0,)),
    "edge_tstats": _given_order(dag.edge_tstats, low=1e-1),
    "partial_correlations": _given_order(dag.partial_correlations),
    "lasso_given_order": _given_order(
        dag.lasso_given_order, vmapped=(), hyper={"l1": (0.1, 0.3)}, low=None
    ),
    "lasso_given_order:mapped": _given_order(
        dag.lasso_given_order, hyper={"l1": (0.1, 0.3)}, low=None
    ),
    "init_topo": _given_order(dag.init_topo),
    "topo_search": _given_order(
        dag.topo_search,
        vmapped=(),
        kwargs={"config": dag.TopoConfig(max_steps=20)},
        low=None,
    ),
    "topo_search:mapped": _given_order(
        dag.topo_search, kwargs={"config": dag.TopoConfig(max_steps=20)}, low=None
    ),
    "topo_search:swap": _given_order(
        dag.topo_search,
        kwargs={"config": dag.TopoConfig(moves="swap", select="best", max_steps=20)},
        low=None,
    ),
    "topo_search:both": _given_order(
        dag.topo_search,
        kwargs={"config": dag.TopoConfig(moves="both", select="greedy", max_steps=20)},
        low=None,
    ),
    "topo_paper": _given_order(
        dag.topo_paper, vmapped=(), kwargs={"max_steps": 20}, low=None
    ),
    "topo_paper:mapped": _given_order(
        dag.topo_paper, kwargs={"max_steps": 20}, low=None
    ),
    "topo_step": Contract(
        function=dag.topo_step,
        vmapped=(),
        samples=lambda rng: (
            stats := jax.tree.map(jnp.asarray, _stats(rng)),
            dag.init_topo(stats, _order(rng)),
        ),
        low=None,
        bad=(_bad_stats(dag.init_topo(_eye_stats(), ORDER)),),
    ),
    "topo_step:mapped": Contract(
        function=dag.topo_step,
        samples=lambda rng: (
            stats := jax.tree.map(jnp.asarray, _stats(rng)),
            dag.init_topo(stats, _order(rng)),
        ),
        low=None,
        bad=(_bad_stats(dag.init_topo(_eye_stats(), ORDER)),),
    ),
    "topo_search_restarts": _from_key(
        dag.topo_search_restarts,
        _bad_key(rest=(_eye_stats(),), num_restarts=2),
        Bad(
            error=ValueError,
            match=r"`num_restarts` must be at least 1, got 0",
            kwargs={"num_restarts": 0},
        ),
        samples=lambda rng: (_stats(rng),),
        vmapped=(),
        kwargs={"num_restarts": 3, "config": dag.TopoConfig(max_steps=20)},
    ),
    "topo_search_restarts:mapped": _from_key(
        dag.topo_search_restarts,
        _bad_key(rest=(_eye_stats(),), num_restarts=2),
        Bad(
            error=ValueError,
            match=r"`num_restarts` must be at least 1, got 0",
            kwargs={"num_restarts": 0},
        ),
        samples=lambda rng: (_stats(rng),),
        kwargs={"num_restarts": 3, "config": dag.TopoConfig(max_steps=20)},
    ),
    "exact_order": Contract(
        function=dag.exact_order,
        vmapped=(),
        samples=lambda rng: (_stats(rng),),
        low=None,
        bad=(
            _bad_stats(),
            Bad(
                error=ValueError,
                match=r"at most 18 nodes, got 19",
                args=(dag.covariance_stats(jnp.eye(19)),),
            ),
        ),
    ),
    "exact_order:mapped": Contract(
        function=dag.exact_order,
        samples=lambda rng: (_stats(rng),),
        low=None,
        bad=(
            _bad_stats(),
            Bad(
                error=ValueError,
                match=r"at most 18 nodes, got 19",
                args=(dag.covariance_stats(jnp.eye(19)),),
            ),
        ),
    ),
    "eqvar_order": Contract(
        function=dag.eqvar_order,
        samples=lambda rng: (_stats(rng),),
        low=None,
        bad=(
            _bad_stats(),
            Bad(
                error=ValueError,
                match=r"`precedence` must have shape \(..., 4, 4\), got \(3, 3\)",
                kwargs={"precedence": np.zeros((3, 3), bool)},
            ),
        ),
    ),
    "variance_order": Contract(
        function=dag.variance_order,
        samples=lambda rng: (_stats(rng),),
        low=None,
        bad=(_bad_stats(),),
    ),
    "sample_order": _from_key(
        dag.sample_order,
        _bad_key(num_nodes=4),
        Bad(
            error=ValueError,
            match=r"`num_nodes` must be at least 2, got 1",
            kwargs={"num_nodes": 1},
        ),
        kwargs={"num_nodes": 5},
    ),
    "insertion_deltas": Contract(
        function=dag.insertion_deltas,
        samples=_factors,
        differentiable=(0, 1),
        bad=(
            Bad(
                error=ValueError,
                match=r"`lower` and `inverse`.*\(4, 4\) and \(3, 3\)",
                args=(np.eye(D, dtype=np.float32), np.eye(3, dtype=np.float32)),
            ),
        ),
    ),
    "swap_deltas": Contract(
        function=dag.swap_deltas,
        samples=_factors,
        bad=(
            Bad(
                error=ValueError,
                match=r"`lower` and `inverse`.*\(4, 4\) and \(3, 3\)",
                args=(np.eye(D, dtype=np.float32), np.eye(3, dtype=np.float32)),
            ),
        ),
    ),
    "adjacent_swap_deltas": Contract(
        function=dag.adjacent_swap_deltas,
        samples=lambda rng: _factors(rng)[:1],
        bad=(_bad_square("lower"),),
    ),
    "select_disjoint": Contract(
        function=dag.select_disjoint,
        samples=lambda rng: (rng.standard_normal((D, D)),),
        low=None,
        bad=(
            _bad_square("deltas"),
            Bad(
                error=ValueError,
                match=r"`method` must be one of.*'first'",
                kwargs={"method": "first"},
            ),
        ),
    ),
    "apply_moves": Contract(
        function=dag.apply_moves,
        samples=lambda rng: (
            _order(rng),
            np.array([-1, 0, -1, 2], np.int32),
            rng.integers(0, 3, D).astype(np.int32),
        ),
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`starts` must have shape \(4,\), got \(3,\)",
                args=(ORDER, ORDER[:3], ORDER),
            ),
            Bad(
                error=TypeError,
                match=r"`kinds` must hold integers, got float32",
                args=(ORDER, ORDER, np.ones(D, np.float32)),
            ),
        ),
    ),
    "h_expm": _of_matrix(
        dag.h_expm,
        differentiable=(0,),
        twice=False,
        loss=True,
        extremes=((np.zeros((3, 3)),),),
    ),
    "h_expm_grad": _of_matrix(dag.h_expm_grad),
    "h_poly": _of_matrix(
        dag.h_poly, differentiable=(0,), loss=True, extremes=((np.ones((3, 3)),),)
    ),
    "h_poly_grad": _of_matrix(dag.h_poly_grad),
    "h_logdet": _of_matrix(
        dag.h_logdet, differentiable=(0,), loss=True, hyper={"s": (1.0, 1.5)}
    ),
    "h_logdet_grad": _of_matrix(dag.h_logdet_grad, hyper={"s": (1.0, 1.5)}),
    "h_inv": _of_matrix(dag.h_inv, differentiable=(0,), loss=True),
    "h_inv_grad": _of_matrix(dag.h_inv_grad),
    "in_logdet_domain": _of_matrix(
        dag.in_logdet_domain, low=None, hyper={"s": (1.0, 1.5)}
    ),
    "least_squares_loss": _of_weights(
        dag.least_squares_loss, differentiable=(0, 1), loss=True
    ),
    "least_squares_grad": _of_weights(dag.least_squares_grad),
    "golem_ev_loss": _of_weights(dag.golem_ev_loss, differentiable=(0, 1), loss=True),
    "golem_nv_loss": _of_weights(dag.golem_nv_loss, differentiable=(0, 1), loss=True),
    "logistic_loss": _of_samples(dag.logistic_loss),
    "poisson_loss": _of_samples(dag.poisson_loss),
    "mcp_penalty": Contract(
        function=dag.mcp_penalty,
        samples=lambda rng: (rng.standard_normal((2, 3)),),
        hyper={"strength": (0.1, 0.2), "gamma": (1.0, 2.0)},
        differentiable=(0,),
        loss=True,
        extremes=((np.zeros(3),), (np.full(3, 1e30),)),
        bad=(
            Bad(
                error=TypeError, match=r"`weights`.*int32", args=(np.ones(3, np.int32),)
            ),
        ),
    ),
    "kkt_residual": Contract(
        function=dag.kkt_residual,
        samples=lambda rng: (_acyclic(rng), rng.standard_normal((D, D))),
        hyper={"l1": (0.1, 0.3)},
        bad=(
            Bad(
                error=ValueError,
                match=r"`weights` and `grad`.*\(4, 4\) and \(3, 3\)",
                args=(np.eye(D, dtype=np.float32), np.eye(3, dtype=np.float32)),
            ),
        ),
    ),
    "candidate_pairs": Contract(
        function=dag.candidate_pairs,
        samples=lambda rng: (_acyclic(rng), rng.standard_normal((D, D))),
        hyper={"tau": (0.0, 0.5), "xi": (0.1, 0.2)},
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`weights` and `grad`.*\(4, 4\) and \(3, 3\)",
                args=(np.eye(D, dtype=np.float32), np.eye(3, dtype=np.float32)),
            ),
        ),
    ),
    "ols_given_parents": Contract(
        function=dag.ols_given_parents,
        samples=lambda rng: (_stats(rng), _acyclic(rng) > 0),
        bad=(_bad_stats(np.eye(D)),),
    ),
    "bic_score": Contract(
        function=dag.bic_score,
        samples=lambda rng: (_stats(rng), _acyclic(rng) > 0),
        hyper={"penalty": (2.0, 0.5)},
        differentiable=(0,),
        bad=(
            Bad(
                error=ValueError,
                match=r"`adjacency` must have shape \(..., 4, 4\), got \(3, 3\)",
                args=(_eye_stats(), np.eye(3)),
            ),
        ),
    ),
    "is_dag": _of_graph(dag.is_dag, "adjacency"),
    "topological_order": _of_graph(dag.topological_order, "adjacency"),
    "ancestors": _of_graph(dag.ancestors, "adjacency"),
    "threshold_to_dag": _of_graph(
        dag.threshold_to_dag, "weights", hyper={"threshold": (0.3, 0.6)}
    ),
    "order_from_adjacency": _of_graph(
        dag.order_from_adjacency, "weights", hyper={"threshold": (0.3, 0.6)}
    ),
    "count_accuracy": Contract(
        function=dag.count_accuracy,
        samples=lambda rng: (_acyclic(rng) > 0.6, _acyclic(rng) > 0.5),
        low=None,
        bad=(
            Bad(
                error=TypeError,
                match=r"`estimate` must be bool or signed integer, got float32",
                args=(np.ones((2, 2), np.float32), np.eye(2, dtype=bool)),
            ),
            Bad(
                error=ValueError,
                match=r"`estimate` and `truth`.*\(2, 2\) and \(3, 3\)",
                args=(np.eye(2, dtype=bool), np.eye(3, dtype=bool)),
            ),
        ),
    ),
    "order_divergence": Contract(
        function=dag.order_divergence,
        samples=lambda rng: (_order(rng), _acyclic(rng)),
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`order` must have shape \(3,\), got \(4,\)",
                args=(ORDER, np.eye(3)),
            ),
        ),
    ),
    "check_scale": Contract(
        function=dag.check_scale,
        samples=lambda rng: (_stats(rng),),
        bad=(_bad_stats(),),
    ),
    "var_sortability": Contract(
        function=dag.var_sortability,
        samples=lambda rng: (_stats(rng), _acyclic(rng)),
        bad=(_bad_stats(np.eye(D)),),
    ),
    "r2_sortability": Contract(
        function=dag.r2_sortability,
        samples=lambda rng: (_stats(rng), _acyclic(rng)),
        bad=(
            Bad(
                error=ValueError,
                match=r"`adjacency` must have shape \(4, 4\), got \(3, 3\)",
                args=(_eye_stats(), np.eye(3)),
            ),
        ),
    ),
    "sample_er_dag": _from_key(
        dag.sample_er_dag,
        _bad_key(num_nodes=4),
        Bad(
            error=ValueError,
            match=r"`edges_per_node` must be at most 1.5 for 4 nodes, got 2",
            kwargs={"num_nodes": 4, "edges_per_node": 2},
        ),
        kwargs={"num_nodes": 6, "edges_per_node": 1},
    ),
    "sample_sf_dag": _from_key(
        dag.sample_sf_dag,
        _bad_key(num_nodes=4),
        Bad(
            error=ValueError,
            match=r"`edges_per_node` must be below 4, got 4",
            kwargs={"num_nodes": 4, "edges_per_node": 4},
        ),
        vmapped=(),
        kwargs={"num_nodes": 6, "edges_per_node": 2},
    ),
    "sample_sf_dag:mapped": _from_key(
        dag.sample_sf_dag,
        _bad_key(num_nodes=4),
        Bad(
            error=ValueError,
            match=r"`edges_per_node` must be below 4, got 4",
            kwargs={"num_nodes": 4, "edges_per_node": 4},
        ),
        kwargs={"num_nodes": 6, "edges_per_node": 2},
    ),
    "sample_edge_weights": _from_key(
        dag.sample_edge_weights,
        _bad_key(rest=(np.eye(3),)),
        samples=lambda rng: (np.eye(D, k=1, dtype=bool),),
        hyper={"low": (0.5, 1.0), "high": (2.0, 3.0)},
    ),
    "sample_linear_sem": _from_key(
        dag.sample_linear_sem,
        _bad_key(rest=(np.eye(3, dtype=np.float32),), num_samples=2),
        Bad(
            error=ValueError,
            match=r"`noise` must be one of.*'cauchy'",
            kwargs={"noise": "cauchy"},
        ),
        samples=lambda rng: (_acyclic(rng),),
        kwargs={"num_samples": 3},
        hyper={"scale": (1.0, 2.0)},
    ),
    "sample_linear_sem:logistic": _from_key(
        dag.sample_linear_sem,
        _bad_key(rest=(np.eye(3, dtype=np.float32),), num_samples=2),
        samples=lambda rng: (_acyclic(rng),),
        kwargs={"num_samples": 3, "noise": "logistic"},
    ),
    "sample_nonlinear_sem": _from_key(
        dag.sample_nonlinear_sem,
        _bad_key(rest=(np.eye(3),), num_samples=2),
        Bad(
            error=ValueError,
            match=r"`function` must be one of.*'tree'",
            kwargs={"function": "tree"},
        ),
        samples=lambda rng: (_acyclic(rng) > 0,),
        vmapped=(),
        kwargs={"num_samples": 3, "function": "mim"},
        hyper={"scale": (1.0, 2.0)},
    ),
    "sample_nonlinear_sem:mapped": _from_key(
        dag.sample_nonlinear_sem,
        _bad_key(rest=(np.eye(3),), num_samples=2),
        Bad(
            error=ValueError,
            match=r"`function` must be one of.*'tree'",
            kwargs={"function": "tree"},
        ),
        samples=lambda rng: (_acyclic(rng) > 0,),
        kwargs={"num_samples": 3, "function": "mim"},
        hyper={"scale": (1.0, 2.0)},
    ),
    "sample_nonlinear_sem:gp": _from_key(
        dag.sample_nonlinear_sem,
        _bad_key(rest=(np.eye(3),), num_samples=2),
        samples=lambda rng: (_acyclic(rng) > 0,),
        kwargs={"num_samples": 3, "function": "gp"},
    ),
}
ELSEWHERE: dict[str, str] = {
    "Accuracy": "a tuple: tests/dag/test_simulators.py",
    "ExactOrder": "a tuple: tests/dag/test_search.py",
    "GramStats": "a tuple: tests/dag/test_simulators.py",
    "LassoResult": "a tuple: tests/dag/test_scores.py",
    "RestartsResult": "a tuple: tests/dag/test_search.py",
    "ScaleReport": "a tuple: tests/dag/test_simulators.py",
    "Selection": "a tuple: tests/dag/test_order.py",
    "TopoConfig": "settings: tests/dag/test_search.py",
    "TopoResult": "a tuple: tests/dag/test_search.py",
    "TopoState": "a tuple: tests/dag/test_search.py",
    "topo_paper_sizes": "a function of an integer: tests/dag/test_search.py",
    "validate_data": "runs on the host: tests/dag/test_simulators.py",
    "validate_gram": "runs on the host: tests/dag/test_simulators.py",
    "validate_order": "runs on the host: tests/dag/test_simulators.py",
}
