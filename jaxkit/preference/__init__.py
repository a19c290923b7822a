"""Losses on pairs of answers, and the online loop that collects the pairs."""

from jaxkit.preference._adapter import (
    HiddenFn,
    answer_log_probs,
    answer_token_log_probs,
    pair_log_probs,
    precompute_ref_logps,
)
from jaxkit.preference._anchored import dpop_loss, rpo_loss, rrhf_loss, slic_loss
from jaxkit.preference._aot import aot_loss
from jaxkit.preference._apo import apo_down_loss, apo_zero_loss
from jaxkit.preference._bco import bco_loss
from jaxkit.preference._collect import collect, run_selm
from jaxkit.preference._config import LOSS_TYPES, PreferenceConfig, preference_loss
from jaxkit.preference._cpo import cpo_loss
from jaxkit.preference._discopop import discopop_loss
from jaxkit.preference._divergence import f_divergence_score
from jaxkit.preference._dpo import dpo_loss, length_normalized_dpo_loss, robust_dpo_loss
from jaxkit.preference._exo import exo_loss
from jaxkit.preference._exploration import exploration_bonus, selm_loss
from jaxkit.preference._hinge import hinge_loss
from jaxkit.preference._ipo import ipo_loss
from jaxkit.preference._kto import kto_kl_estimate, kto_loss
from jaxkit.preference._loop import (
    SelmBatch,
    SelmConfig,
    SelmState,
    init_replay,
    init_selm,
    train_round,
    update_reference,
)
from jaxkit.preference._metrics import implicit_reward, preference_metrics
from jaxkit.preference._nash_md import nash_md_loss
from jaxkit.preference._nca import nca_loss
from jaxkit.preference._optimistic import se_popo_loss, vpo_loss, xpo_loss
from jaxkit.preference._orpo import odds_ratio_loss, orpo_loss
from jaxkit.preference._paired_kto import paired_kto_loss
from jaxkit.preference._pairs import PairLogps
from jaxkit.preference._ranking import RankedPair, bradley_terry_labels, rank_responses
from jaxkit.preference._sampling import SampledTokens, sample_tokens
from jaxkit.preference._selm_rates import SelmRates, selm_rates
from jaxkit.preference._selm_theory import (
    optimal_policy,
    selm_population_loss,
    selm_value_gap,
)
from jaxkit.preference._sft import sft_loss
from jaxkit.preference._shifted import dpo_shift_loss, r_dpo_loss
from jaxkit.preference._simpo import alphapo_loss, simpo_loss
from jaxkit.preference._slopes import PairSlopes, loss_slopes
from jaxkit.preference._sppo import sppo_loss
from jaxkit.preference._token_weights import length_decomposed_log_probs, wpo_weights

__all__ = [
    "LOSS_TYPES",
    "HiddenFn",
    "PairLogps",
    "PairSlopes",
    "PreferenceConfig",
    "RankedPair",
    "SampledTokens",
    "SelmBatch",
    "SelmConfig",
    "SelmRates",
    "SelmState",
    "alphapo_loss",
    "answer_log_probs",
    "answer_token_log_probs",
    "aot_loss",
    "apo_down_loss",
    "apo_zero_loss",
    "bco_loss",
    "bradley_terry_labels",
    "collect",
    "cpo_loss",
    "discopop_loss",
    "dpo_loss",
    "dpo_shift_loss",
    "dpop_loss",
    "exo_loss",
    "exploration_bonus",
    "f_divergence_score",
    "hinge_loss",
    "implicit_reward",
    "init_replay",
    "init_selm",
    "ipo_loss",
    "kto_kl_estimate",
    "kto_loss",
    "length_decomposed_log_probs",
    "length_normalized_dpo_loss",
    "loss_slopes",
    "nash_md_loss",
    "nca_loss",
    "odds_ratio_loss",
    "optimal_policy",
    "orpo_loss",
    "pair_log_probs",
    "paired_kto_loss",
    "precompute_ref_logps",
    "preference_loss",
    "preference_metrics",
    "r_dpo_loss",
    "rank_responses",
    "robust_dpo_loss",
    "rpo_loss",
    "rrhf_loss",
    "run_selm",
    "sample_tokens",
    "se_popo_loss",
    "selm_loss",
    "selm_population_loss",
    "selm_rates",
    "selm_value_gap",
    "sft_loss",
    "simpo_loss",
    "slic_loss",
    "sppo_loss",
    "train_round",
    "update_reference",
    "vpo_loss",
    "wpo_weights",
    "xpo_loss",
]
