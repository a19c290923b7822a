"""Dataset distillation: ridge regression, kernels, and whole steps."""

from benchmarks._distill_steps import step_cases
from benchmarks._harness import Case
from benchmarks._network_kernels import kernel_cases
from benchmarks._ridge_solves import solver_cases

__all__ = ["cases"]


def cases(preset: str, max_length: int | None) -> list[Case]:
    """All cases of the system."""
    return [
        *solver_cases(preset, max_length),
        *kernel_cases(preset, max_length),
        *step_cases(preset, max_length),
    ]
