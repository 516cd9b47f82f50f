"""Paired comparison of two arms: the difference, its 95 % interval and p, which agree.

Trainings share folds, seeds and test images, so that they are not so many independent pairs: what
counts is how many folds, or seeds and images, there are. Every score is a function of sums over
test images (a confusion matrix, a Dice's numerator and denominator): leaving an image out needs no
other prediction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.arrays import Floats
from factory.errors import DataError
from factory.evaluate.factors import Crossed, spread_over
from factory.evaluate.spread import Spread, spread_of, together
from factory.measure.intervals import Estimate, bounded_difference, p_of_difference

Score = Callable[[Floats], Floats]
"""Sums (..., F) over images to scores (...,) in [0, 1]."""
Repeat = tuple[int, ...]
"""Fold and seed of a training; in a study of several draws also these and the generator's."""

MIN_FOLDS = 3
"""From here on folds are the independent units; below, seeds and test images are."""
FACTORS = "draws of the shots, test images, seeds and generators"
ONE_GROUP = "nothing"
"""All test images of a fold are of one group."""
SAME = 1e-12
"""Differences of scores below this are rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one training did on its test part: counts (G, F), a row per group of images."""

    groups: tuple[str, ...]
    counts: Floats

    def score(self, of: Score) -> float:
        """Return the score of all images."""
        return float(of(self.counts.sum(axis=0)))

    def pseudo_scores(self, of: Score) -> Floats:
        """Return the jackknife's pseudo-values (G,): what each group adds to the score."""
        total, count = self.counts.sum(axis=0), len(self.groups)
        return np.asarray(count * of(total) - (count - 1) * of(total - self.counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One arm minus another, over the same folds, seeds and test images."""

    difference: Estimate
    """`n` counts pairs of trainings; the interval stays in [-1, 1]."""
    p: float | None
    """Two-sided, below 0.05 exactly where the interval leaves 0 out; None where nothing differs."""
    over: str
    """What the interval is about: 'folds', 'seeds and test images', draws and all else, or nothing
    (`ONE_GROUP`)."""
    pairs: tuple[float, ...]
    false_claim: float | None = None
    """Chance that the arm which looks better is not: the posterior of the mean difference is
    Student's t around it (E. Christodoulou et al., arXiv 2505.04720, for paired scores)."""


def compare(arm: Mapping[Repeat, Tally], other: Mapping[Repeat, Tally], score: Score) -> Comparison:
    """Compare two arms in pairs: the same fold, seed and test images.

    The largest independent units decide: from three folds on the folds (also where each has a
    single seed), else seeds and groups of test images together, see `spread_of`. Of studies of two
    equal arms under 5 folds and 3 seeds, 4 to 6 in 100 call them different, whatever folds and
    seeds vary by. That folds share training images is not accounted for. Where shots were drawn
    several times, these draws, test images, seeds and generators count at once: `spread_over`.
    Test images of a single group (patient), below three folds, leave the interval open.

    Raises:
        DataError: other folds, seeds or test images; or a single training of each.
    """
    places = sorted(arm)
    _check(arm, other, places)
    pairs = {place: arm[place].score(score) - other[place].score(score) for place in places}
    alone = min(len(tally.groups) for tally in arm.values()) < 2
    if len(places[0]) > 2:
        if alone and len({place[0] for place in places}) < MIN_FOLDS:
            return _unknown(pairs, float(np.mean([*pairs.values()])))
        told = spread_over(crossed(arm, score) - crossed(other, score))
        return _comparison(arm, pairs, float(np.mean([*pairs.values()])), told, FACTORS)
    folds = sorted({fold for fold, _ in places})
    own = {fold: [place for place in places if place[0] == fold] for fold in folds}
    means = [float(np.mean([pairs[place] for place in own[fold]])) for fold in folds]
    by_folds = len(folds) >= MIN_FOLDS or len(places) == len(folds)
    if by_folds and np.ptp(means) > SAME:
        spread = _over_folds(own, pairs, means)
    else:  # also where folds agree to the last digit: their images do not
        by_folds = False
        if alone:
            return _unknown(pairs, float(np.mean(means)))
        spread = together([_over_seeds_and_images(arm, other, own[f], score) for f in folds])
    over = "folds" if by_folds else "seeds and test images"
    return _comparison(arm, pairs, float(np.mean(means)), spread, over)


def crossed(tallies: Mapping[Repeat, Tally], score: Score) -> Crossed:
    """Return what test images add to the score of an arm, by draw, generator and seed."""
    return Crossed.of({place: tally.pseudo_scores(score) for place, tally in tallies.items()})


def _comparison(
    arm: Mapping[Repeat, Tally],
    pairs: Mapping[Repeat, float],
    mean: float,
    spread: Spread,
    over: str,
) -> Comparison:
    error = float(np.sqrt(spread.variance))
    chance = None
    if error > 0:
        low, high = bounded_difference(mean, error, spread.freedom)
        p = p_of_difference(mean, error, spread.freedom)
        chance = p / 2
    else:  # every image says the same: the sign test
        images = {place[0]: len(tally.groups) for place, tally in arm.items()}
        p = min(1.0, 2.0 ** (1 - sum(images.values())))
        low, high = (mean, mean) if p < 0.05 or mean == 0 else (-1.0, 1.0)
    differs = max(map(abs, pairs.values())) > SAME
    return Comparison(
        difference=Estimate(value=mean, low=low, high=high, n=len(pairs)),
        p=p if differs else None,
        over=over,
        pairs=tuple(pairs.values()),
        false_claim=chance if differs else None,
    )


def _unknown(pairs: Mapping[Repeat, float], mean: float) -> Comparison:
    """Return what is known where all test images of a fold are of one patient: the difference.

    However often an arm is trained, no other patient is asked.
    """
    differs = max(map(abs, pairs.values())) > SAME
    return Comparison(
        difference=Estimate(value=mean, low=-1.0, high=1.0, n=len(pairs)),
        p=1.0 if differs else None,
        over=ONE_GROUP,
        pairs=tuple(pairs.values()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (S. Holm, 1979), in the order given."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    out = np.empty(len(p_values))
    out[order] = adjusted
    return [float(value) for value in out]


def _check(
    arm: Mapping[Repeat, Tally], other: Mapping[Repeat, Tally], places: Sequence[Repeat]
) -> None:
    if places != sorted(other) or any(arm[p].groups != other[p].groups for p in places):
        raise DataError(
            f"arms of {len(arm)} and {len(other)} trainings have other folds, seeds or test images",
            remedy="Compare arms of one study",
        )
    if len(places) < 2:
        raise DataError("one training has no spread", remedy="Run two seeds or folds, or more")


def _over_folds(
    own: Mapping[int, Sequence[Repeat]],
    pairs: Mapping[Repeat, float],
    means: Sequence[float],
) -> Spread:
    """Return the spread over folds; seeds are crossed with them where all folds have the same."""
    seeds = {tuple(seed for _, seed in places) for places in own.values()}
    if len(seeds) > 1:
        return spread_of(np.array(means)[:, None])
    return spread_of(np.array([[pairs[place] for place in places] for places in own.values()]))


def _over_seeds_and_images(
    arm: Mapping[Repeat, Tally],
    other: Mapping[Repeat, Tally],
    places: Sequence[Repeat],
    score: Score,
) -> Spread:
    """Return the spread of one fold's mean difference, over its seeds and groups of images."""
    table = np.stack([arm[p].pseudo_scores(score) - other[p].pseudo_scores(score) for p in places])
    return spread_of(table if len(places) > 1 else table.T)
