"""95 % intervals: a figure without one says little about a few hundred images."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.errors import DataError

if TYPE_CHECKING:  # a plan of a study waits for neither
    import numpy as np
    from numpy.typing import NDArray

Z95 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(successes: int, n: int) -> Estimate:
    """Return successes / n with its Wilson score interval (E. Wilson, JASA 1927).

    Raises:
        ValueError: n < 1 or successes outside 0..n.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Clamped: at 0 or n successes the bound is exact, but for rounding.
    return Estimate(
        value=share, low=max(0.0, min(share, centre - half)), high=min(1.0, centre + half), n=n
    )


def mean_of_proportions(parts: list[Estimate]) -> Estimate:
    """Return the unweighted mean of independent proportions, e.g. recalls: balanced accuracy.

    The interval is normal, from the summed binomial variances; Agresti-Coull's two successes and
    two failures keep a part with 0 or n successes from counting as certain (A. Agresti and B.
    Coull, The American Statistician 1998).
    """
    value = sum(part.value for part in parts) / len(parts)
    variance = 0.0
    for part in parts:
        share = (part.value * part.n + 2) / (part.n + 4)
        variance += share * (1 - share) / (part.n + 4)
    half = Z95 * math.sqrt(variance) / len(parts)
    return Estimate(
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        n=sum(part.n for part in parts),
    )


def bounded_difference(mean: float, error: float, freedom: float) -> tuple[float, float]:
    """Return the 95 % interval of a difference of two scores: it cannot leave [-1, 1].

    Wilson's score interval of (1 + difference) / 2, a share, with the number of images that the
    measured error stands for (N. Dean and M. Pagano, Journal of Survey Statistics and Methodology
    2015) and Student's quantile: Student's interval where it is far from both ends.

    Args:
        mean: the difference, in -1 .. 1.
        error: its standard error, above 0.
        freedom: degrees of freedom behind the error.
    """
    left = 1 - mean**2
    if left <= 0:
        return mean, mean
    from scipy import special  # half a second, which a plan need not wait for

    wide = float(special.stdtrit(freedom, 0.975) * error) ** 2 / left
    half = math.sqrt(wide * (wide + left))
    return (mean - half) / (1 + wide), (mean + half) / (1 + wide)


def p_of_difference(mean: float, error: float, freedom: float) -> float:
    """Return the two-sided p of no difference: 0.05 where `bounded_difference` ends at 0."""
    from scipy import special

    return float(2 * special.stdtr(freedom, -abs(mean) * math.sqrt(max(0.0, 1 - mean**2)) / error))


def mean_of(values: "Sequence[float] | NDArray[np.float64]") -> Estimate:
    """Return the mean of images, sources or trainings with Student's 95 % interval.

    It says what others of the same kind would have given: another seed where values are trainings.

    Raises:
        DataError: fewer than 2 values, which have no spread.
    """
    found = [float(value) for value in values]
    n = len(found)
    if n < 2:
        raise DataError(f"{n} values have no interval", remedy="Measure two or more")
    mean = math.fsum(found) / n
    from scipy import special  # half a second, which a plan need not wait for

    half = float(special.stdtrit(n - 1, 0.975)) * statistics.stdev(found) / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the mean of value - other, seed by seed, with Student's 95 % interval.

    Raises:
        ValueError: not as many of both.
        DataError: see `mean_of`.
    """
    return mean_of([a - b for a, b in zip(values, others, strict=True)])


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of trainings as text, nothing of no values."""
    if not values:
        return ""
    around = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{around}"


def counted(number: int, thing: str) -> str:
    """Return e.g. '1 fold' or '3 folds'."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
