"""Evaluation: whether what a generator draws looks like the real thing, and is new."""
