"""Dataset distillation by kernel ridge regression."""

__all__: list[str] = []
