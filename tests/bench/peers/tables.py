"""How the benches of peers print: tables as the pages of docs/ have them, medians and ranges."""

import statistics
from collections.abc import Sequence


def ranged(values: Sequence[float], form: str = "{:.3g}") -> str:
    """Return 'median (least to greatest)', or the value where there is one."""
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return first / second, round by round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it."""
    for row in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
