"""Private helpers that every layer above may use."""
