"""Measures of sets of images: features, distances, copies, diversity, judges; with intervals."""
