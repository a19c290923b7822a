"""Why the two log-probabilities of a preference pair move together, and remedies."""

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
from jaxkit.entanglement._lazy_flow import lazy_dpo_flow
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
from jaxkit.entanglement._types import Changes, Coefficients, PairGram

__all__ = [
    "Changes",
    "Coefficients",
    "DisplacementReport",
    "PairGram",
    "Regime",
    "ches_score",
    "chosen_share",
    "displacement_report",
    "entanglement_regime",
    "ideal_ratio_interval",
    "lazy_dpo_flow",
    "loss_coefficients",
    "output_layer_token_gram",
    "pair_cosine",
    "predicted_changes",
    "softmax_pair_gram",
    "softmax_step_changes",
    "suffix_pair_gram",
    "trust_step",
    "update_changes",
]
