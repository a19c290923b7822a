"""Dataset distillation by kernel ridge regression."""

from jaxkit.distillation._krr import kernel_ridge_predict, krr_loss
from jaxkit.distillation._ridge import krr_fit, ridge_from_trace, ridge_predict

__all__ = [
    "kernel_ridge_predict",
    "krr_fit",
    "krr_loss",
    "ridge_from_trace",
    "ridge_predict",
]
