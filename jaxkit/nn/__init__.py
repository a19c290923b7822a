"""Flax NNX modules: thin wrappers around the pure functions."""

__all__: list[str] = []
