"""Mesa-optimization in a linear-attention model of autoregressive sequences."""

from jaxkit.mesa._data import ar_sequences, sample_ar_sequences
from jaxkit.mesa._emergence import (
    EmergenceReport,
    MomentCheck,
    check_emergence_moments,
)
from jaxkit.mesa._few_shot import (
    FewShotBatch,
    few_shot_gamma,
    few_shot_learning_rate,
    few_shot_loss,
    few_shot_optimal_loss,
    few_shot_predict,
    sample_few_shot,
)
from jaxkit.mesa._few_shot_layers import (
    few_shot_gradient_descent,
    few_shot_layers_predict,
    few_shot_lsa_params,
    few_shot_lsa_predict,
)
from jaxkit.mesa._flow import reduced_flow_rhs, reduced_flow_solution
from jaxkit.mesa._model import (
    LSAParams,
    ar_loss,
    embed_ar,
    init_diagonal,
    init_gaussian,
    lsa_predict,
)
from jaxkit.mesa._moments import (
    Moments,
    empirical_moments,
    gaussian_moments,
    ones_moments,
    rademacher_moments,
    sparse_moments,
    uniform_moments,
)
from jaxkit.mesa._ols import ols_gradient_step
from jaxkit.mesa._population import (
    PopulationTensor,
    population_loss,
    population_loss_diagonal,
    population_loss_general,
    population_tensor,
)
from jaxkit.mesa._quadrature import quadrature_batch
from jaxkit.mesa._theory import (
    asymptotic_risk,
    context_risk,
    diagonal_loss,
    expected_ratio,
    flow_constants,
    limit_product,
)
from jaxkit.mesa._training import (
    Trajectory,
    balance,
    gradient_descent,
    gradient_flow,
)
from jaxkit.mesa._updates import (
    conjugate_updates,
    keep_diagonal_updates,
    project_diagonal,
)

__all__ = [
    "EmergenceReport",
    "FewShotBatch",
    "LSAParams",
    "MomentCheck",
    "Moments",
    "PopulationTensor",
    "Trajectory",
    "ar_loss",
    "ar_sequences",
    "asymptotic_risk",
    "balance",
    "check_emergence_moments",
    "conjugate_updates",
    "context_risk",
    "diagonal_loss",
    "embed_ar",
    "empirical_moments",
    "expected_ratio",
    "few_shot_gamma",
    "few_shot_gradient_descent",
    "few_shot_layers_predict",
    "few_shot_learning_rate",
    "few_shot_loss",
    "few_shot_lsa_params",
    "few_shot_lsa_predict",
    "few_shot_optimal_loss",
    "few_shot_predict",
    "flow_constants",
    "gaussian_moments",
    "gradient_descent",
    "gradient_flow",
    "init_diagonal",
    "init_gaussian",
    "keep_diagonal_updates",
    "limit_product",
    "lsa_predict",
    "ols_gradient_step",
    "ones_moments",
    "population_loss",
    "population_loss_diagonal",
    "population_loss_general",
    "population_tensor",
    "project_diagonal",
    "quadrature_batch",
    "rademacher_moments",
    "reduced_flow_rhs",
    "reduced_flow_solution",
    "sample_ar_sequences",
    "sample_few_shot",
    "sparse_moments",
    "uniform_moments",
]
