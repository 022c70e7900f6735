"""Checkpoints: read as data, written atomically, found by name, exported as students."""
