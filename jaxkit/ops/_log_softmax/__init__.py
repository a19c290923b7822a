"""Log-probabilities of tokens and sequences, one file per subject."""
