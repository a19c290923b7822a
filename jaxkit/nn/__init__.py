"""Flax NNX modules: thin wrappers around the pure functions."""

from jaxkit.nn.mesa import CausalLinearAttention, LinearSelfAttention, MesaLayer

__all__ = ["CausalLinearAttention", "LinearSelfAttention", "MesaLayer"]
