"""Ratios of run time against peers, compiled memory, and distance to the limit."""
