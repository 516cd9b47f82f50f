"""Test images of one kind, such as those of another hospital, scored apart by the same trainings.

A subgroup has fewer images than the test part and several are looked at: read its interval as a
hint (the whole test part is what a study's verdict is about).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from factory.evaluate.compare import Comparison, Repeat, Score, Tally, compare
from factory.evaluate.tasks import TASKS, tallies_by_arm
from factory.evaluate.units import Material, Result, Unit
from factory.measure.intervals import Estimate, counted, spread


@dataclass(frozen=True, kw_only=True)
class SubgroupFigures:
    """What all arms scored on the test images of one subgroup."""

    num_test: int
    """Images, of all folds."""
    scores: Mapping[str, tuple[float, ...]]
    """By arm, one per training: the metric that arms are compared by."""
    differences: Mapping[str, Comparison]
    """Of arms with synthetic images, against the study's baseline."""


def measure_subgroups(
    units: Sequence[Unit],
    results: Mapping[str, Result],
    material: Material,
    *,
    values: Mapping[str, str],
    mixed: Sequence[str],
    baseline: str,
) -> dict[str, SubgroupFigures]:
    """Return the figures by subgroup; folds without an image of one are left out of it."""
    tested = {values[i] for unit in units for i in unit.test if i in values}
    score = TASKS[units[0].learner.task].score
    found = {}
    for value in sorted(tested):
        cut = [_cut(unit, results[unit.id], values, value) for unit in units]
        left = [(unit, result) for unit, result in cut if unit.test]
        tallies = tallies_by_arm(left, material)
        found[value] = SubgroupFigures(
            num_test=sum({unit.fold: len(unit.test) for unit, _ in left}.values()),
            scores={
                arm: tuple(tally.score(score) for _, tally in sorted(own.items()))
                for arm, own in tallies.items()
            },
            differences=_differences(tallies, score, mixed, baseline),
        )
    return found


def _cut(unit: Unit, result: Result, values: Mapping[str, str], value: str) -> tuple[Unit, Result]:
    """Return a training as if only images of one subgroup had been tested."""
    told = zip(unit.test, result.said, strict=True)
    own = [(i, said) for i, said in told if values.get(i) == value]
    return (
        replace(unit, test=tuple(i for i, _ in own)),
        replace(result, said=tuple(said for _, said in own)),
    )


def _differences(
    tallies: Mapping[str, Mapping[Repeat, Tally]],
    score: Score,
    mixed: Sequence[str],
    baseline: str,
) -> dict[str, Comparison]:
    """Return each mixed arm minus the baseline; none where one training has no spread."""
    if len(tallies[baseline]) < 2:
        return {}
    return {arm: compare(tallies[arm], tallies[baseline], score) for arm in mixed}


def subgroup_tables(
    found: Mapping[str, SubgroupFigures],
    title: str,
    baseline: str,
    told: Callable[[Estimate], str] = str,
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield caption, heads and rows of a table per subgroup: arm, score, minus the baseline.

    Args:
        found: the figures.
        title: of the score.
        baseline: name of the control.
        told: how a difference is written.
    """
    for value, own in found.items():
        shown = {arm: told(each.difference) for arm, each in own.differences.items()}
        rows = [[arm, spread(scores), shown.get(arm, "")] for arm, scores in own.scores.items()]
        heads = ["arm", title, f"minus {baseline}"]
        yield f"{value}, {counted(own.num_test, 'test image')}", heads, rows
