"""Losses on the hypersphere: SFace, angular margins, pairs and proxies; verification."""

__all__: list[str] = []
