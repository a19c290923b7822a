"""Dataset distillation by kernel ridge regression."""

from jaxkit.distillation._artefact import DistilledSet, load_distilled, save_distilled
from jaxkit.distillation._augment import augment_view, crop_and_flip
from jaxkit.distillation._config import DistillConfig
from jaxkit.distillation._conv_kernels import conv_nngp_ntk
from jaxkit.distillation._coresets import kcenter_greedy, kmeans_subset, random_subset
from jaxkit.distillation._distill import (
    distill_step,
    init_distill_state,
    make_distill_step,
)
from jaxkit.distillation._evaluation import RepresentationError, representation_mse
from jaxkit.distillation._finetune import finetune, replace_head
from jaxkit.distillation._inner import inner_step, pretrain
from jaxkit.distillation._kernels import (
    linear_kernel,
    random_feature_kernel,
    rbf_kernel,
)
from jaxkit.distillation._kmeans import KMeansResult, kmeans
from jaxkit.distillation._krr import kernel_ridge_predict, krr_loss
from jaxkit.distillation._label_solve import label_solve
from jaxkit.distillation._networks import (
    DistillMetrics,
    DistillState,
    Network,
    Pool,
    Synthetic,
    init_synthetic,
)
from jaxkit.distillation._nngp import fc_nngp_ntk
from jaxkit.distillation._probe import linear_probe, sgd_linear_probe
from jaxkit.distillation._relu_kernel import NetworkKernels
from jaxkit.distillation._ridge import krr_fit, ridge_from_trace, ridge_predict
from jaxkit.distillation._run import run_distillation
from jaxkit.distillation._self_supervised import (
    barlow_twins_loss,
    ntxent_loss,
    vicreg_loss,
)
from jaxkit.distillation._targets import (
    TargetBank,
    bank_images,
    make_target_bank,
    precompute_targets,
)
from jaxkit.distillation._teacher import (
    TeacherState,
    init_teacher,
    make_target_fn,
    teacher_step,
    train_teacher,
)

__all__ = [
    "DistillConfig",
    "DistillMetrics",
    "DistillState",
    "DistilledSet",
    "KMeansResult",
    "Network",
    "NetworkKernels",
    "Pool",
    "RepresentationError",
    "Synthetic",
    "TargetBank",
    "TeacherState",
    "augment_view",
    "bank_images",
    "barlow_twins_loss",
    "conv_nngp_ntk",
    "crop_and_flip",
    "distill_step",
    "fc_nngp_ntk",
    "finetune",
    "init_distill_state",
    "init_synthetic",
    "init_teacher",
    "inner_step",
    "kcenter_greedy",
    "kernel_ridge_predict",
    "kmeans",
    "kmeans_subset",
    "krr_fit",
    "krr_loss",
    "label_solve",
    "linear_kernel",
    "linear_probe",
    "load_distilled",
    "make_distill_step",
    "make_target_bank",
    "make_target_fn",
    "ntxent_loss",
    "precompute_targets",
    "pretrain",
    "random_feature_kernel",
    "random_subset",
    "rbf_kernel",
    "replace_head",
    "representation_mse",
    "ridge_from_trace",
    "ridge_predict",
    "run_distillation",
    "save_distilled",
    "sgd_linear_probe",
    "teacher_step",
    "train_teacher",
    "vicreg_loss",
]
