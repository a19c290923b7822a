"""Contract rows of hypersphere: streaming and sharded classes."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE: dict[str, str] = {}
