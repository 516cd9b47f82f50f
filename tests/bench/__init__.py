"""Benches: ratios of two things timed in one run. They print; no test asserts a clock."""
