"""Dataset distillation by kernel ridge regression."""

from jaxkit.distillation._artefact import DistilledSet, load_distilled, save_distilled
from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._coresets import (
    kcenter_greedy,
    kmeans_subset,
    random_subset,
)
from jaxkit.distillation._distill import (
    distill_step,
    init_distill_state,
    make_distill_step,
)
from jaxkit.distillation._evaluation import RepresentationError, representation_mse
from jaxkit.distillation._finetune import finetune, replace_head
from jaxkit.distillation._inner import inner_step, pretrain
from jaxkit.distillation._kmeans import KMeansResult, kmeans
from jaxkit.distillation._krr import kernel_ridge_predict, krr_loss
from jaxkit.distillation._networks import (
    DistillMetrics,
    DistillState,
    Network,
    Pool,
    Synthetic,
    init_synthetic,
)
from jaxkit.distillation._probe import linear_probe, sgd_linear_probe
from jaxkit.distillation._ridge import krr_fit, ridge_from_trace, ridge_predict

__all__ = [
    "DistillConfig",
    "DistillMetrics",
    "DistillState",
    "DistilledSet",
    "KMeansResult",
    "Network",
    "Pool",
    "RepresentationError",
    "Synthetic",
    "distill_step",
    "finetune",
    "init_distill_state",
    "init_synthetic",
    "inner_step",
    "kcenter_greedy",
    "kernel_ridge_predict",
    "kmeans",
    "kmeans_subset",
    "krr_fit",
    "krr_loss",
    "linear_probe",
    "load_distilled",
    "make_distill_step",
    "pretrain",
    "random_subset",
    "replace_head",
    "representation_mse",
    "ridge_from_trace",
    "ridge_predict",
    "save_distilled",
    "sgd_linear_probe",
]
