"""Contract rows of dag: statistics, scores and order search."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE: dict[str, str] = {}
