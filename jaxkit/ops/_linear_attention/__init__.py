"""Linear attention, the delta rule and the mesa layer, one file per subject."""
