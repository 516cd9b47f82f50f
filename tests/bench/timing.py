"""Timing for the benches: medians of repeats, peak memory of a child process."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def alternate(
    first: Callable[[], float], second: Callable[[], float], *, rounds: int
) -> tuple[list[float], list[float]]:
    """Measure two things in turn, so that a drifting machine drifts under both."""
    pairs = [(first(), second()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def told(name: str, values: Sequence[float], unit: str) -> str:
    """Return 'name: median unit (min..max, n)'."""
    return (
        f"{name}: {statistics.median(values):.3g} {unit}"
        f" ({min(values):.3g}..{max(values):.3g}, n {len(values)})"
    )


def child_seconds(*command: str) -> float:
    """Return the wall time of a fresh Python process."""
    return seconds(lambda: subprocess.run([sys.executable, *command], check=True, timeout=120))


def peak_mib() -> float:
    """Return this process's peak resident memory in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
