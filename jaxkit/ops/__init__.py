"""Shared mathematics: masks, linear algebra, attention, integrators, sharding."""

from jaxkit.ops._labeled_pairs import LabeledPairs, labeled_pairs, ntxent_loss
from jaxkit.ops._linalg import cholesky_solve, squared_distances
from jaxkit.ops._linear_attention._attention import (
    linear_attention,
    linear_attention_step,
)
from jaxkit.ops._linear_attention._delta_rule import delta_rule
from jaxkit.ops._linear_attention._mesa import MesaState, mesa_attention
from jaxkit.ops._log_softmax._linear import (
    TokenStatistics,
    linear_selected_log_probs,
    token_statistics,
)
from jaxkit.ops._log_softmax._selected import selected_log_probs
from jaxkit.ops._log_softmax._sequence import segment_log_probs, sequence_log_probs
from jaxkit.ops._masking import masked_fill, masked_mean, masked_sum, safe_divide
from jaxkit.ops._numerics import abs_squared, l2_normalize, safe_norm
from jaxkit.ops._ode import integrate
from jaxkit.ops._sharding import data_mesh, match_varying, shard_batch

__all__ = [
    "LabeledPairs",
    "MesaState",
    "TokenStatistics",
    "abs_squared",
    "cholesky_solve",
    "data_mesh",
    "delta_rule",
    "integrate",
    "l2_normalize",
    "labeled_pairs",
    "linear_attention",
    "linear_attention_step",
    "linear_selected_log_probs",
    "masked_fill",
    "masked_mean",
    "masked_sum",
    "match_varying",
    "mesa_attention",
    "ntxent_loss",
    "safe_divide",
    "safe_norm",
    "segment_log_probs",
    "selected_log_probs",
    "sequence_log_probs",
    "shard_batch",
    "squared_distances",
    "token_statistics",
]
