"""Depth policies: how deep each of m images of one source is inverted before it is denoised.

A policy reads a curve: one feature of the source at every level 0 .. N of its inversion. It never
changes it, and returns m levels, strictly increasing.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from factory.errors import ConfigError

Depths = tuple[int, ...]

FAILURES = 100
"""Rejected candidates after which the original gave its search up."""


def uniform_depths(top: int, count: int) -> Depths:
    """Return `count` levels, evenly spaced up to `top`.

    Raises:
        ConfigError: more images than levels.
    """
    _check(top, count)
    return tuple(-(-top * k // count) for k in range(1, count + 1))


def adaptive_depths(curve: Sequence[float], count: int) -> Depths:
    """Return for k = 1 .. count the first level at which the feature moved by k / count.

    Measured on the monotone envelope (`moved`), so the last depth is where the feature reaches its
    plateau. Where several k fall on one level, the later ones give way upwards, at the end of the
    curve downwards. A feature that never moves says nothing: the depths are uniform then.

    Raises:
        ConfigError: more images than levels.
    """
    fractions = moved(curve)
    top = len(fractions) - 1
    _check(top, count)
    if not fractions[-1]:
        return uniform_depths(top, count)
    wanted = np.arange(1, count + 1) / count
    first = np.searchsorted(fractions, wanted - 1e-9)
    steps = np.arange(count)
    rising = np.maximum.accumulate(np.maximum(first, 1) - steps) + steps
    return tuple(int(depth) for depth in np.minimum(rising, top - steps[::-1]))


def reversed_depths(curve: Sequence[float], count: int) -> Depths:
    """Return the depths of the original's rule, which reads the curve from its noisy end.

    It looks, in the reversed curve, for the value nearest to min + (max - min) k / count, and takes
    that value's PLACE as the depth; places must rise, others are struck out with a zero, and after
    `FAILURES` of them the depths are uniform. A feature that falls with noise so never gives a
    shallow image. For fidelity only; the curve itself stays as it is.

    Raises:
        ConfigError: more images than levels.
    """
    top = len(curve) - 1
    _check(top, count)
    values = np.array(curve, np.float64)[::-1].copy()
    low, high = values.min(), values.max()
    depths: list[int] = []
    failures = 0
    while len(depths) < count:
        goal = low + (high - low) * (len(depths) + 1) / count
        place = int(np.abs(values - goal).argmin())
        if place > (depths[-1] if depths else 0):
            depths.append(place)
            continue
        values[place] = 0
        failures += 1
        if failures > FAILURES:
            return (*(k * top // count for k in range(1, count)), top)
    return tuple(depths)


def moved(curve: Sequence[float]) -> NDArray[np.float64]:
    """Return (N + 1,) how much of its range the feature has covered at each level, 0 .. 1.

    The running maximum of its distance from the clean value, in the direction in which it goes
    farther; all zero if it never moves.

    Raises:
        ConfigError: a value that is no number.
    """
    values = np.asarray(curve, np.float64) - curve[0]
    if not np.isfinite(values).all():
        level = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ConfigError(
            f"the feature of level {level} is {curve[level]}", remedy="Choose another measure"
        )
    falls = -values.min() > values.max()
    envelope = np.maximum.accumulate(-values if falls else values)
    return envelope / envelope[-1] if envelope[-1] > 0 else np.zeros_like(envelope)


def _adaptive_to_top(curve: Sequence[float], count: int) -> Depths:
    return (*adaptive_depths(curve, count)[:-1], len(curve) - 1)


POLICIES: Mapping[str, Callable[[Sequence[float], int], Depths]] = {
    "uniform": lambda curve, count: uniform_depths(len(curve) - 1, count),
    "adaptive": adaptive_depths,
    "adaptive_full": _adaptive_to_top,
    "reversed": reversed_depths,
}
"""Name -> policy. 'adaptive' ends at the plateau, 'adaptive_full' at the noisiest level."""


def choose_depths(policy: str, curve: Sequence[float], count: int) -> Depths:
    """Return what the policy of that name says.

    Raises:
        ConfigError: unknown policy, or what the policy raises.
    """
    if policy not in POLICIES:
        raise ConfigError(
            f"unknown depth policy {policy!r}", remedy=f"Choose one of {', '.join(POLICIES)}"
        )
    return POLICIES[policy](curve, count)


def _check(top: int, count: int) -> None:
    if not 1 <= count <= top:
        raise ConfigError(
            f"{count} depths do not fit into {top} inversion steps",
            remedy="Ask for 1 or more depths, and as many num_inference_steps at least",
        )
