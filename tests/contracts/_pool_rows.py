"""Contract rows of distillation: the distillation algorithm and its pool."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}

_STEP = "takes callables; see tests/distillation/test_step.py"

ELSEWHERE: dict[str, str] = {
    "DistillConfig": "settings; see tests/distillation/test_config.py",
    "DistillMetrics": "a tuple; see tests/distillation/test_step.py",
    "DistillState": "a tuple; see tests/distillation/test_step.py",
    "Network": "a tuple of callables; see tests/distillation/test_step.py",
    "Pool": "a tuple; see tests/distillation/test_pool.py",
    "Synthetic": "a tuple; see tests/distillation/test_step.py",
    "distill_step": _STEP,
    "init_distill_state": _STEP,
    "init_synthetic": "gives a tuple; see tests/distillation/test_config.py",
    "inner_step": _STEP,
    "make_distill_step": _STEP,
    "pretrain": _STEP,
}
