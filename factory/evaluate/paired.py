"""Figures of the same training under several seeds: means, and differences seed by seed.

Between trainings, not between images: the interval says what another seed would have given.
"""

import math
from collections.abc import Sequence

from factory.evaluate.intervals import Estimate

T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean with Student's 95 % interval; `n` counts trainings.

    Raises:
        ValueError: fewer than 2 or more than 10 values.
    """
    n = len(values)
    if not 2 <= n <= len(T95) + 1:
        raise ValueError(f"{n} values: the interval is known for 2 to {len(T95) + 1}")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = T95[n - 2] * math.sqrt(variance / n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the mean of value - other, pair by pair, with Student's 95 % interval.

    Raises:
        ValueError: not as many of both, or see `mean_over_seeds`.
    """
    return mean_over_seeds([a - b for a, b in zip(values, others, strict=True)])
