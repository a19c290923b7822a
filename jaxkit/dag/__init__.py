"""Structure learning: acyclicity, scores, and search over topological orders."""

from jaxkit.dag._graphs import (
    ancestors,
    is_dag,
    order_from_adjacency,
    threshold_to_dag,
    topological_order,
)
from jaxkit.dag._initial_orders import eqvar_order, sample_order, variance_order
from jaxkit.dag._linear_sem import sample_linear_sem
from jaxkit.dag._metrics import Accuracy, count_accuracy, order_divergence
from jaxkit.dag._nonlinear_sem import sample_nonlinear_sem
from jaxkit.dag._order import (
    edge_tstats,
    ols_given_order,
    order_cholesky,
    order_loss,
    partial_correlations,
    residual_variances,
)
from jaxkit.dag._random_graphs import (
    sample_edge_weights,
    sample_er_dag,
    sample_sf_dag,
)
from jaxkit.dag._sortability import (
    ScaleReport,
    check_scale,
    r2_sortability,
    var_sortability,
)
from jaxkit.dag._stats import GramStats, covariance_stats, gram_stats
from jaxkit.dag._validate import validate_data, validate_gram, validate_order

__all__ = [
    "Accuracy",
    "GramStats",
    "ScaleReport",
    "ancestors",
    "check_scale",
    "count_accuracy",
    "covariance_stats",
    "edge_tstats",
    "eqvar_order",
    "gram_stats",
    "is_dag",
    "ols_given_order",
    "order_cholesky",
    "order_divergence",
    "order_from_adjacency",
    "order_loss",
    "partial_correlations",
    "r2_sortability",
    "residual_variances",
    "sample_edge_weights",
    "sample_er_dag",
    "sample_linear_sem",
    "sample_nonlinear_sem",
    "sample_order",
    "sample_sf_dag",
    "threshold_to_dag",
    "topological_order",
    "validate_data",
    "validate_gram",
    "validate_order",
    "var_sortability",
    "variance_order",
]
