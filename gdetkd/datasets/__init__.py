"""Data sets: the embedded benchmark and the preparation of public ones."""
