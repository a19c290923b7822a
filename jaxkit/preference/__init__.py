"""Losses on pairs of answers, and the online loop that collects the pairs."""

from jaxkit.preference._divergence import f_divergence_score
from jaxkit.preference._dpo import dpo_loss
from jaxkit.preference._pairs import PairLogps

__all__ = ["PairLogps", "dpo_loss", "f_divergence_score"]
