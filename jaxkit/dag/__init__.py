"""Structure learning: acyclicity, scores, and search over topological orders."""

__all__: list[str] = []
