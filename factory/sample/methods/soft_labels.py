"""Soft labels of a bridge: how much each image belongs to the source and how much to the target."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory.errors import ConfigError
from factory.sample.methods.depths import moved

LABELS = ("depth", "feature", "expert")
"""Rules of the fraction f_k: of the depth, of the feature's range, an expert's probability."""


def depth_fractions(depths: Sequence[int], top: int) -> NDArray[np.float64]:
    """Return (m,) depth / top: the share of the diffusion's levels that an image went through."""
    return np.asarray(depths, np.float64) / top


def feature_fractions(curve: Sequence[float], depths: Sequence[int]) -> NDArray[np.float64]:
    """Return (m,) the share of the feature's range that it has covered at every depth."""
    return moved(curve)[list(depths)]


def expert_fractions(
    probabilities: NDArray[np.float64], source: int, target: int
) -> NDArray[np.float64]:
    """Return (m,) `odds` of the images k = 1 .. m of one source, made to rise with k.

    The images of one source are a progression by construction, so where the expert's scores fall,
    they are replaced by the rising sequence nearest to them in least squares.

    Args:
        probabilities: (m, classes) of the images k = 1 .. m of one source.
        source, target: columns.
    """
    return rising(odds(probabilities, source, target))


def odds(probabilities: NDArray[np.float64], source: int, target: int) -> NDArray[np.float64]:
    """Return (n,) p(target) / (p(source) + p(target)) of (n, classes): 0 source, 1 target."""
    pair = probabilities[:, [source, target]]
    return np.asarray(pair[:, 1] / np.maximum(pair.sum(1), np.finfo(np.float64).tiny))


def rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest non-decreasing sequence in least squares: pool adjacent violators.

    Source: R. Barlow et al., Statistical Inference under Order Restrictions, 1972.
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])


def soft_label(
    fraction: float, source: str, target: str, class_names: Sequence[str]
) -> tuple[float, ...]:
    """Return a weight per class: 1 - `fraction` at the source, `fraction` at the target.

    Raises:
        ConfigError: a fraction outside 0 .. 1, or a class that is not listed.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(
            f"a soft label of fraction {fraction}", remedy="Give a fraction from 0 to 1"
        )
    weights = dict.fromkeys(class_names, 0.0)
    if missing := [name for name in (source, target) if name not in weights]:
        raise ConfigError(
            f"class {missing[0]!r} is none of {', '.join(class_names)}",
            remedy="Name two classes of the generators",
        )
    weights[source] += 1 - fraction
    weights[target] += fraction
    return tuple(weights.values())
