"""Test images of one kind, such as those of another hospital, scored apart by the same trainings.

A subgroup has fewer images than the test part and several are looked at: read its interval as a
hint (the whole test part is what a study's verdict is about).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.errors import ConfigError, DataError
from factory.evaluate.compare import Comparison, Place, Tally, compare
from factory.evaluate.intervals import Estimate, counted, spread
from factory.evaluate.tasks import TASKS, tally_of
from factory.evaluate.units import Material, Result, Unit
from factory.real.dataset import RealDataset


@dataclass(frozen=True, kw_only=True)
class SubgroupFigures:
    """What all arms scored on the test images of one subgroup."""

    num_test: int
    """Images, of all folds."""
    scores: Mapping[str, tuple[float, ...]]
    """By arm, one per training: the metric that arms are compared by."""
    differences: Mapping[str, Comparison]
    """Of arms with synthetic images, against the study's baseline."""


def subgroup_values(dataset: RealDataset, attribute: str | None) -> dict[str, str]:
    """Return what the attribute says of each image; nothing of those that have none.

    Raises:
        ConfigError: no image has the attribute.
    """
    if attribute is None:
        return {}
    found = {i: own[attribute] for i, own in dataset.attributes.items() if own.get(attribute)}
    if not found:
        known = sorted({name for own in dataset.attributes.values() for name in own})
        raise ConfigError(
            f"subgroups: no image has an attribute {attribute!r}",
            remedy=f"Choose of {', '.join(known)}" if known else "Add it to metadata.csv",
        )
    return found


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
    return {
        value: _measure(units, results, material, values, value, (mixed, baseline))
        for value in sorted(tested)
    }


def _measure(
    units: Sequence[Unit],
    results: Mapping[str, Result],
    material: Material,
    values: Mapping[str, str],
    value: str,
    compared: tuple[Sequence[str], str],
) -> SubgroupFigures:
    score = TASKS[units[0].learner.task].score
    tallies: dict[str, dict[Place, Tally]] = {}
    counted: dict[int, int] = {}
    for unit in units:
        own = np.array([values.get(i) == value for i in unit.test])
        if own.any():
            tally = tally_of(unit, results[unit.id], material, only=own)
            tallies.setdefault(unit.manifest.arm, {})[unit.place] = tally
            counted[unit.fold] = int(own.sum())
    mixed, baseline = compared
    differences = {}
    for arm in mixed:
        try:
            differences[arm] = compare(tallies[arm], tallies[baseline], score)
        except DataError:  # a single training has no spread
            continue
    return SubgroupFigures(
        num_test=sum(counted.values()),
        scores={
            arm: tuple(tally.score(score) for _, tally in sorted(found.items()))
            for arm, found in tallies.items()
        },
        differences=differences,
    )


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


def subgroup_lines(found: Mapping[str, SubgroupFigures], title: str, baseline: str) -> list[str]:
    """Return the tables as Markdown; nothing without subgroups."""
    lines: list[str] = []
    for caption, heads, rows in subgroup_tables(found, title, baseline):
        lines += ["", f"{caption}:", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return lines
