"""Flax NNX modules: thin wrappers around the pure functions."""

from jaxkit.nn.mesa import CausalLinearAttention, LinearSelfAttention, MesaLayer
from jaxkit.nn.preference import PreferencePolicy

__all__ = [
    "CausalLinearAttention",
    "LinearSelfAttention",
    "MesaLayer",
    "PreferencePolicy",
]
