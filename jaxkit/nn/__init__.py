"""Flax NNX modules: thin wrappers around the pure functions."""

from jaxkit.nn.dag import LinearSEM, MaskedMLP
from jaxkit.nn.distillation import BarlowTwinsHead, ConvNet, ResNet18, network_functions
from jaxkit.nn.entanglement import CausalTransformer, TokenGate
from jaxkit.nn.hypersphere import EmbeddingNet, HypersphereHead, LossState
from jaxkit.nn.mesa import CausalLinearAttention, LinearSelfAttention, MesaLayer
from jaxkit.nn.preference import PreferencePolicy

__all__ = [
    "BarlowTwinsHead",
    "CausalLinearAttention",
    "CausalTransformer",
    "ConvNet",
    "EmbeddingNet",
    "HypersphereHead",
    "LinearSEM",
    "LinearSelfAttention",
    "LossState",
    "MaskedMLP",
    "MesaLayer",
    "PreferencePolicy",
    "ResNet18",
    "TokenGate",
    "network_functions",
]
