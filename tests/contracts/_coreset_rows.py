"""Contract rows of distillation: coresets, evaluation and artefacts."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE: dict[str, str] = {}
