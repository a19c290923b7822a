"""Why the two log-probabilities of a preference pair move together, and remedies."""

from jaxkit.entanglement._accumulated import (
    accumulated_pair_gram,
    accumulated_value_and_grad,
)
from jaxkit.entanglement._accumulator import (
    accumulator_bias,
    accumulator_dense,
    accumulator_embedding,
    accumulator_positions,
    accumulator_scale,
)
from jaxkit.entanglement._batch_loss import PairReport
from jaxkit.entanglement._calibration import (
    CalibrationState,
    calibrate,
    calibrated_log_probs,
    init_calibration,
)
from jaxkit.entanglement._closed_forms import (
    softmax_pair_gram,
    softmax_step_changes,
    suffix_pair_gram,
)
from jaxkit.entanglement._coefficients import loss_coefficients
from jaxkit.entanglement._displacement import (
    DisplacementReport,
    displacement_report,
    update_changes,
)
from jaxkit.entanglement._gram import (
    batch_gram,
    leaf_pair_gram,
    pair_gram,
    token_gram,
)
from jaxkit.entanglement._lazy_flow import lazy_dpo_flow
from jaxkit.entanglement._masks import contrast_mask, token_mask_loss
from jaxkit.entanglement._output_layer import ches_score, output_layer_token_gram
from jaxkit.entanglement._regimes import (
    Regime,
    chosen_share,
    entanglement_regime,
    ideal_ratio_interval,
    pair_cosine,
    predicted_changes,
    trust_step,
)
from jaxkit.entanglement._remedies import (
    alternating_update,
    combine_gradients,
    normalized_pair_value_and_grad,
)
from jaxkit.entanglement._sketch import sketch_gradients
from jaxkit.entanglement._split import split_value_and_grad
from jaxkit.entanglement._types import Changes, Coefficients, PairGram

__all__ = [
    "CalibrationState",
    "Changes",
    "Coefficients",
    "DisplacementReport",
    "PairGram",
    "PairReport",
    "Regime",
    "accumulated_pair_gram",
    "accumulated_value_and_grad",
    "accumulator_bias",
    "accumulator_dense",
    "accumulator_embedding",
    "accumulator_positions",
    "accumulator_scale",
    "alternating_update",
    "batch_gram",
    "calibrate",
    "calibrated_log_probs",
    "ches_score",
    "chosen_share",
    "combine_gradients",
    "contrast_mask",
    "displacement_report",
    "entanglement_regime",
    "ideal_ratio_interval",
    "init_calibration",
    "lazy_dpo_flow",
    "leaf_pair_gram",
    "loss_coefficients",
    "normalized_pair_value_and_grad",
    "output_layer_token_gram",
    "pair_cosine",
    "pair_gram",
    "predicted_changes",
    "sketch_gradients",
    "softmax_pair_gram",
    "softmax_step_changes",
    "split_value_and_grad",
    "suffix_pair_gram",
    "token_gram",
    "token_mask_loss",
    "trust_step",
    "update_changes",
]
