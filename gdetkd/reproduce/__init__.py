"""Runs whose records stand under `results/`, and the tables made from them."""
