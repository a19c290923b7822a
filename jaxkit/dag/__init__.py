"""Structure learning: acyclicity, scores, and search over topological orders."""

from jaxkit.dag._acyclicity import (
    h_expm,
    h_expm_grad,
    h_inv,
    h_inv_grad,
    h_logdet,
    h_logdet_grad,
    h_poly,
    h_poly_grad,
    in_logdet_domain,
)
from jaxkit.dag._basis import (
    BasisStats,
    basis_features,
    basis_order_loss,
    basis_stats,
)
from jaxkit.dag._basis_search import (
    BasisResult,
    basis_order_search,
    basis_prune,
)
from jaxkit.dag._bootstrap import (
    bootstrap_edges,
)
from jaxkit.dag._boss import BossResult, boss_search
from jaxkit.dag._cpdag import cpdag_distance, dag_to_cpdag, meek_closure
from jaxkit.dag._dagma import (
    DagmaConfig,
    DagmaResult,
    dagma,
)
from jaxkit.dag._exact import ExactOrder, exact_order
from jaxkit.dag._golem import (
    GolemConfig,
    GolemResult,
    golem,
)
from jaxkit.dag._graphs import (
    ancestors,
    is_dag,
    order_from_adjacency,
    threshold_to_dag,
    topological_order,
)
from jaxkit.dag._grow_shrink import ParentSet, grow_shrink
from jaxkit.dag._initial_orders import eqvar_order, sample_order, variance_order
from jaxkit.dag._kkt import candidate_pairs, kkt_residual
from jaxkit.dag._lasso import LassoResult, lasso_given_order
from jaxkit.dag._linear_sem import sample_linear_sem
from jaxkit.dag._metrics import Accuracy, count_accuracy, order_divergence
from jaxkit.dag._mlp import (
    MlpParams,
    init_mlp,
    mlp_adjacency,
    mlp_loss,
    mlp_predict,
)
from jaxkit.dag._mlp_search import (
    MlpOrderResult,
    MlpSearchConfig,
    mlp_order_search,
)
from jaxkit.dag._nonlinear_sem import sample_nonlinear_sem
from jaxkit.dag._notears import (
    NotearsConfig,
    NotearsResult,
    notears,
    notears_objective,
)
from jaxkit.dag._notears_mlp import (
    NotearsMlpResult,
    notears_mlp,
)
from jaxkit.dag._order import (
    edge_tstats,
    ols_given_order,
    order_cholesky,
    order_loss,
    partial_correlations,
    residual_variances,
)
from jaxkit.dag._paper import topo_paper, topo_paper_sizes
from jaxkit.dag._parents import bic_score, ols_given_parents
from jaxkit.dag._prune import prune
from jaxkit.dag._random_graphs import (
    sample_edge_weights,
    sample_er_dag,
    sample_sf_dag,
)
from jaxkit.dag._scores import (
    golem_ev_loss,
    golem_nv_loss,
    least_squares_grad,
    least_squares_loss,
    logistic_loss,
    mcp_penalty,
    poisson_loss,
)
from jaxkit.dag._select import Selection, apply_moves, select_disjoint
from jaxkit.dag._sortability import (
    ScaleReport,
    check_scale,
    r2_sortability,
    var_sortability,
)
from jaxkit.dag._stats import GramStats, covariance_stats, gram_stats
from jaxkit.dag._tables import adjacent_swap_deltas, insertion_deltas, swap_deltas
from jaxkit.dag._topo import (
    RestartsResult,
    TopoResult,
    topo_search,
    topo_search_restarts,
)
from jaxkit.dag._topo_step import TopoConfig, TopoState, init_topo, topo_step
from jaxkit.dag._validate import validate_data, validate_gram, validate_order

__all__ = [
    "Accuracy",
    "BasisResult",
    "BasisStats",
    "BossResult",
    "DagmaConfig",
    "DagmaResult",
    "ExactOrder",
    "GolemConfig",
    "GolemResult",
    "GramStats",
    "LassoResult",
    "MlpOrderResult",
    "MlpParams",
    "MlpSearchConfig",
    "NotearsConfig",
    "NotearsMlpResult",
    "NotearsResult",
    "ParentSet",
    "RestartsResult",
    "ScaleReport",
    "Selection",
    "TopoConfig",
    "TopoResult",
    "TopoState",
    "adjacent_swap_deltas",
    "ancestors",
    "apply_moves",
    "basis_features",
    "basis_order_loss",
    "basis_order_search",
    "basis_prune",
    "basis_stats",
    "bic_score",
    "bootstrap_edges",
    "boss_search",
    "candidate_pairs",
    "check_scale",
    "count_accuracy",
    "covariance_stats",
    "cpdag_distance",
    "dag_to_cpdag",
    "dagma",
    "edge_tstats",
    "eqvar_order",
    "exact_order",
    "golem",
    "golem_ev_loss",
    "golem_nv_loss",
    "gram_stats",
    "grow_shrink",
    "h_expm",
    "h_expm_grad",
    "h_inv",
    "h_inv_grad",
    "h_logdet",
    "h_logdet_grad",
    "h_poly",
    "h_poly_grad",
    "in_logdet_domain",
    "init_mlp",
    "init_topo",
    "insertion_deltas",
    "is_dag",
    "kkt_residual",
    "lasso_given_order",
    "least_squares_grad",
    "least_squares_loss",
    "logistic_loss",
    "mcp_penalty",
    "meek_closure",
    "mlp_adjacency",
    "mlp_loss",
    "mlp_order_search",
    "mlp_predict",
    "notears",
    "notears_mlp",
    "notears_objective",
    "ols_given_order",
    "ols_given_parents",
    "order_cholesky",
    "order_divergence",
    "order_from_adjacency",
    "order_loss",
    "partial_correlations",
    "poisson_loss",
    "prune",
    "r2_sortability",
    "residual_variances",
    "sample_edge_weights",
    "sample_er_dag",
    "sample_linear_sem",
    "sample_nonlinear_sem",
    "sample_order",
    "sample_sf_dag",
    "select_disjoint",
    "swap_deltas",
    "threshold_to_dag",
    "topo_paper",
    "topo_paper_sizes",
    "topo_search",
    "topo_search_restarts",
    "topo_step",
    "topological_order",
    "validate_data",
    "validate_gram",
    "validate_order",
    "var_sortability",
    "variance_order",
]
