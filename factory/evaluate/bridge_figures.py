"""How a bridge's progressions behave: ranks along k, source by source, and where real ones fall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, spearmanr, t

from factory.errors import DataError
from factory.measure.intervals import Estimate, proportion

Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """What was measured of the images k = 1 .. m of one source in one direction, (m,) each."""

    source_id: str
    target_probability: Curve
    """The expert's, of all its classes ..."""
    odds: Curve
    """... and against the source's alone."""
    target_is_seen: NDArray[np.bool_]
    """Whether the expert names the target."""
    ssim: Curve
    """To the source."""
    label: Curve
    """The target's weight in the soft label."""
    depth: Curve
    """Share of the levels, 0 .. 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionFigures:
    """Figures of one direction; means and intervals are over its sources."""

    source: str
    target: str
    num_sources: int
    expert_rises: Estimate
    """Spearman of k and the expert's probability of the target: 1 where it only rises."""
    ssim_falls: Estimate
    """Spearman of k and the negative SSIM to the source."""
    odds_rise: Estimate
    """Spearman of k and p(target) / (p(source) + p(target)), the expert's: other classes, which may
    lie on the way, do not count."""
    label_follows: Estimate
    """Spearman of the soft label and the expert's probability of the target."""
    steps_ssim_falls: Estimate
    """Share of the steps k to k + 1 at which SSIM falls."""
    arrived: Estimate
    """Share of the deepest images in which the expert sees the target."""
    target_probability: Sequence[Estimate]
    """At k = 1 .. m; and so the others."""
    odds: Sequence[Estimate]
    ssim: Sequence[Estimate]
    label: Sequence[Estimate]
    depth: Sequence[Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenFigures:
    """Real images that no one trained on: the expert's odds of the target, by class."""

    scores: Mapping[str, Estimate]
    above_source: Mapping[str, float]
    """In-between class -> chance that one of its images scores above one of the source class."""
    below_target: Mapping[str, float]
    """... and that it scores below one of the target class."""


def spearman(values: Curve) -> float:
    """Return Spearman's rank correlation of (m,) values with 1 .. m; 0 where they are all equal."""
    return correlation(np.arange(len(values), dtype=np.float64), values)


def correlation(first: Curve, second: Curve) -> float:
    """Return Spearman's rank correlation; 0, not undefined, where one of them never changes."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def mean_of(values: Sequence[float] | Curve) -> Estimate:
    """Return the mean with Student's 95 % interval.

    Raises:
        DataError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise DataError(f"{n} values have no interval", remedy="Measure two sources or more")
    mean = float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


def direction_figures(source: str, target: str, ways: Sequence[Way]) -> DirectionFigures:
    """Return the figures of all sources of one direction.

    Raises:
        DataError: fewer than two sources, or sources of different numbers of images.
    """
    lengths = {len(way.ssim) for way in ways}
    if len(lengths) != 1 or lengths == {1}:
        raise DataError(
            f"{source} to {target}: progressions of {sorted(lengths)} images",
            remedy="Judge one run whose sources all have the same number of depths, two or more",
        )
    falls = np.diff([way.ssim for way in ways], axis=1) < 0

    def by_k(name: str) -> list[Estimate]:
        return [mean_of(column) for column in np.stack([getattr(w, name) for w in ways], axis=1)]

    return DirectionFigures(
        source=source,
        target=target,
        num_sources=len(ways),
        expert_rises=mean_of([spearman(way.target_probability) for way in ways]),
        ssim_falls=mean_of([spearman(-way.ssim) for way in ways]),
        odds_rise=mean_of([spearman(way.odds) for way in ways]),
        label_follows=mean_of([correlation(w.label, w.target_probability) for w in ways]),
        steps_ssim_falls=proportion(int(falls.sum()), falls.size),
        arrived=proportion(sum(bool(way.target_is_seen[-1]) for way in ways), len(ways)),
        target_probability=by_k("target_probability"),
        odds=by_k("odds"),
        ssim=by_k("ssim"),
        label=by_k("label"),
        depth=by_k("depth"),
    )


def between_figures(scores: Mapping[str, Curve], source: str, target: str) -> BetweenFigures:
    """Return where the classes other than `source` and `target` score.

    Args:
        scores: class -> (n,) the expert's odds of `target` against `source` in real images of it.
        source, target: two of the classes.
    """
    between = [name for name in scores if name not in (source, target)]
    return BetweenFigures(
        scores={name: mean_of(values) for name, values in scores.items()},
        above_source={name: _above(scores[name], scores[source]) for name in between},
        below_target={name: _above(scores[target], scores[name]) for name in between},
    )


def _above(first: Curve, second: Curve) -> float:
    """Return the chance that one of `first` is above one of `second`; ties count half."""
    return float(mannwhitneyu(first, second).statistic) / (len(first) * len(second))
