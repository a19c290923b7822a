"""Dataset distillation by kernel ridge regression."""

from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._distill import (
    distill_step,
    init_distill_state,
    make_distill_step,
)
from jaxkit.distillation._inner import inner_step, pretrain
from jaxkit.distillation._krr import kernel_ridge_predict, krr_loss
from jaxkit.distillation._networks import (
    DistillMetrics,
    DistillState,
    Network,
    Pool,
    Synthetic,
    init_synthetic,
)
from jaxkit.distillation._ridge import krr_fit, ridge_from_trace, ridge_predict

__all__ = [
    "DistillConfig",
    "DistillMetrics",
    "DistillState",
    "Network",
    "Pool",
    "Synthetic",
    "distill_step",
    "init_distill_state",
    "init_synthetic",
    "inner_step",
    "kernel_ridge_predict",
    "krr_fit",
    "krr_loss",
    "make_distill_step",
    "pretrain",
    "ridge_from_trace",
    "ridge_predict",
]
