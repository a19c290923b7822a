"""Contract rows of dag: sparse, nonlinear and baseline structure learners."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE: dict[str, str] = {}
