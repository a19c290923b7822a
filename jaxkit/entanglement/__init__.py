"""Why the two log-probabilities of a preference pair move together, and remedies."""

from jaxkit.entanglement._types import Changes, Coefficients, PairGram

__all__ = [
    "Changes",
    "Coefficients",
    "PairGram",
]
