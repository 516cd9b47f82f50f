"""Sampling: recipe -> plan -> batches -> engine -> gates -> sink, and redrawing from a row."""
