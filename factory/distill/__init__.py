"""Distillation: what a generator draws in many evaluations, learnt by a student of a few."""
