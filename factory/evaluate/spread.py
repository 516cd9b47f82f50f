"""The variance of a mean over crossed units, by analysis of variance: intervals rest on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from factory.arrays import Floats

SHOWN = 0.9
"""Quantile of F that what units share must pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Variance of a mean and its degrees of freedom."""

    variance: float
    freedom: float


def spread_of(table: Floats) -> Spread:
    """Return the variance of the mean of (R, C) values: R independent units, C crossed with them.

    The analysis of variance by which radiology compares readers over common cases (D. Dorfman, K.
    Berbaum and C. Metz, Investigative Radiology 1992): what all units share of a column counts too,
    where an F test at 10 % shows it (T. Bancroft, Biometrics 1964); degrees of freedom after F.
    Satterthwaite, Biometrics 1946. With one column it is Student's.

    Args:
        table: folds by seeds, or seeds by images; of a single row nothing is known: 0.
    """
    rows, columns = table.shape
    if rows < 2:
        return Spread(variance=0.0, freedom=1.0)
    of_rows = columns * float(table.mean(axis=1).var(ddof=1))
    shared = 0.0
    if columns > 1:
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
        freedom = (rows - 1) * (columns - 1)
        of_rest = float((rest**2).sum()) / freedom
        of_columns = rows * float(table.mean(axis=0).var(ddof=1))
        if of_columns > of_rest * special.fdtri(columns - 1, freedom, SHOWN):
            shared = of_columns - of_rest
    parts = ((of_rows, rows - 1), (shared, columns - 1))
    return Spread(
        variance=(of_rows + shared) / table.size,
        freedom=_satterthwaite([(value, free) for value, free in parts if value > 0]),
    )


def together(parts: Sequence[Spread]) -> Spread:
    """Return the spread of the mean of independent means."""
    told = [(part.variance, part.freedom) for part in parts if part.variance > 0]
    return Spread(
        variance=sum(part.variance for part in parts) / len(parts) ** 2,
        freedom=_satterthwaite(told),
    )


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances (value, freedom); 1 of none."""
    total = sum(value for value, _ in parts)
    return total**2 / sum(value**2 / free for value, free in parts) if parts else 1.0
