"""Flax NNX modules: thin wrappers around the pure functions."""

from jaxkit.nn.entanglement import CausalTransformer, TokenGate
from jaxkit.nn.mesa import CausalLinearAttention, LinearSelfAttention, MesaLayer
from jaxkit.nn.preference import PreferencePolicy

__all__ = [
    "CausalLinearAttention",
    "CausalTransformer",
    "LinearSelfAttention",
    "MesaLayer",
    "PreferencePolicy",
    "TokenGate",
]
