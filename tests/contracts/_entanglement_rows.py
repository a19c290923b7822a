"""Contract rows of jaxkit.entanglement."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}

ELSEWHERE: dict[str, str] = {
    "Changes": "a tuple of arrays",
    "Coefficients": "a tuple of arrays",
    "PairGram": "a tuple of arrays",
}
