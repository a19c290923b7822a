"""Contract rows of distillation: the distillation algorithm and its pool."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxkit import distillation
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

IMAGES = (3, 6, 6, 2)


def _row(function: Callable[..., Any], *bad: Bad, **options: Any) -> Contract:
    """The row of a random change of images; its draws depend on no dtype."""
    flat = (jax.random.key(0), np.ones((6, 6), np.float32))
    whole = (jax.random.key(0), np.ones(IMAGES, np.int32))
    raw = (np.zeros(2, np.uint32), np.ones(IMAGES, np.float32))
    refusals = (
        Bad(error=ValueError, match=r"`images` must have shape.*\(6, 6\)", args=flat),
        Bad(error=TypeError, match=r"`images`.*int32", args=whole),
        Bad(error=TypeError, match=r"`key` must be a typed key.*uint32", args=raw),
        Bad(
            error=ValueError,
            match="`padding` must be at least 0, got -1",
            kwargs={"padding": -1},
        ),
    )
    return Contract(
        function=function,
        samples=lambda rng: (rng.standard_normal(IMAGES),),
        random=True,
        low=None,
        bad=(*refusals, *bad),
        **options,
    )


ROWS: dict[str, Contract] = {
    "crop_and_flip": _row(distillation.crop_and_flip),
    "augment_view": _row(
        distillation.augment_view,
        Bad(
            error=ValueError,
            match=r"`gain` must be a scalar, got shape \(3,\)",
            kwargs={"gain": np.ones(3, np.float32)},
        ),
        Bad(
            error=ValueError,
            match=r"`cutout` must fit into images of shape \(3, 6, 6, 2\), got 7",
            kwargs={"cutout": 7},
        ),
        hyper={"gain": (0.4, 0.1), "shift": (0.4, 0.0)},
    ),
}

_TARGETS = "takes callables; see tests/distillation/test_run.py"
_TEACHER = "takes callables; see tests/distillation/test_teacher.py"
_STEP = "takes callables; see tests/distillation/test_step.py"

ELSEWHERE: dict[str, str] = {
    "DistillConfig": "settings; see tests/distillation/test_config.py",
    "DistillMetrics": "a tuple; see tests/distillation/test_step.py",
    "DistillState": "a tuple; see tests/distillation/test_step.py",
    "Network": "a tuple of callables; see tests/distillation/test_step.py",
    "Pool": "a tuple; see tests/distillation/test_pool.py",
    "Synthetic": "a tuple; see tests/distillation/test_step.py",
    "TargetBank": "a tuple; see tests/distillation/test_run.py",
    "TeacherState": "a tuple; see tests/distillation/test_teacher.py",
    "bank_images": _TARGETS,
    "distill_step": _STEP,
    "init_distill_state": _STEP,
    "init_teacher": _TEACHER,
    "init_synthetic": "gives a tuple; see tests/distillation/test_config.py",
    "inner_step": _STEP,
    "make_distill_step": _STEP,
    "make_target_fn": _TEACHER,
    "make_target_bank": _TARGETS,
    "precompute_targets": _TARGETS,
    "pretrain": _STEP,
    "run_distillation": "takes callables; see tests/distillation/test_run.py",
    "teacher_step": _TEACHER,
    "train_teacher": _TEACHER,
}
