"""Contract rows of distillation: kernel ridge regression, kernels and self-supervised losses."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE: dict[str, str] = {}
