"""What drawn images are worth in real labels: read off the curve of the real images alone."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from factory.arrays import Floats
from factory.evaluate.config import StudyConfig
from factory.evaluate.designs import Real, SyntheticOnly
from factory.evaluate.factors import Crossed, labels_worth, resampled
from factory.evaluate.units import Unit
from factory.measure.charts import Line, Span
from factory.measure.intervals import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where an arm lies on the curve of real images: value and 95 % interval of each figure.

    None instead of a number of labels: more than the curve's last point, it was not asked how many.
    """

    labels: float
    """Real labels per class that the arm has itself."""
    score: tuple[float, float, float]
    like: tuple[float | None, float | None, float | None]
    """Real labels per class that give its score without drawn images."""
    share: tuple[float, float, float]
    """Its score over that of all real images."""

    @property
    def worth(self) -> tuple[float | None, float | None, float | None]:
        """Real labels per class that its drawn images replace."""
        low, value, high = (None if n is None else max(0.0, n - self.labels) for n in self.like)
        return low, value, high


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Real arms by their labels per class, and where the arms with drawn images lie."""

    real: Mapping[str, Reach]
    drawn: Mapping[str, Reach]
    controls: Mapping[str, Reach] = field(default_factory=dict)
    """The best control by val score at each number of labels, where it is not the real arm."""
    designs: tuple[tuple[str, ...], ...] = ()
    """Arms with drawn images that differ in their shots alone, fewest first."""


def labels_of(config: StudyConfig, arm: str, units: Sequence[Unit]) -> float:
    """Return the real labels per class of an arm: its shots, or a class's mean of its images."""
    if isinstance(config.arms[arm], SyntheticOnly):
        return 0.0
    if isinstance(shots := config.shots_of(arm), int):
        return float(shots)
    held = [
        len({row.id for row in unit.manifest.rows if not (row.synthetic or row.made)})
        for unit in units
        if unit.manifest.arm == arm and unit.draw in (None, 0)
    ]
    return float(np.mean(held)) / len(units[0].manifest.class_names)


def learning_curve(
    config: StudyConfig,
    units: Sequence[Unit],
    found: Mapping[str, Crossed],
    best_of: Callable[[Sequence[str]], str] = lambda names: names[0],
) -> LearningCurve | None:
    """Return the curve of real arms at several numbers of labels; None: there are not two.

    Args:
        config: the study.
        units: its trainings.
        found: what test images add to the score of each arm.
        best_of: chooses the best of some controls, by val scores.
    """
    plain = [
        n
        for n, a in config.arms.items()
        if isinstance(a, Real) and a.augment and not (a.strong or a.unlabelled)
    ]
    real = {labels_of(config, name, units): name for name in reversed(plain)}
    if len(real) < 2 or not config.draws:
        return None
    points = [(labels, real[labels]) for labels in sorted(real)]
    controls = _controls(config, dict(points), units, best_of)
    names = [*dict.fromkeys([*(name for _, name in points), *controls, *config.mixed])]
    means = resampled([found[name] for name in names])
    exact = np.array([[found[name].mean for name in names]])
    own = {name: labels_of(config, name, units) for name in names}

    def reach(name: str) -> Reach:
        told = []
        for table in (exact, means):
            columns = {n: table[:, names.index(n)] for n in names}
            curve = [(labels, columns[n]) for labels, n in points]
            told.append((columns[name], labels_worth(curve, columns[name]), columns[points[-1][1]]))
        (score, like, last), (scores, likes, lasts) = told
        return Reach(
            labels=own[name],
            score=_interval(score, scores),
            like=_finite(_interval(like, likes)),
            share=_interval(score / last, scores / lasts),
        )

    return LearningCurve(
        real={name: reach(name) for _, name in points},
        drawn={name: reach(name) for name in config.mixed},
        controls={name: reach(name) for name in controls},
        designs=_designs(config, own),
    )


def _controls(
    config: StudyConfig,
    real: Mapping[float, str],
    units: Sequence[Unit],
    best_of: Callable[[Sequence[str]], str],
) -> list[str]:
    """Return the best control at each number of labels; none where it is always the real arm."""
    by_labels: dict[float, list[str]] = {}
    for name in config.controls:
        by_labels.setdefault(labels_of(config, name, units), []).append(name)
    best = {labels: best_of(by_labels[labels]) for labels in sorted(by_labels)}
    return [] if set(best.values()) <= set(real.values()) else list(best.values())


def _designs(config: StudyConfig, labels: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Return the arms with drawn images that differ in their shots alone, fewest first."""
    alike: dict[str, list[str]] = {}
    for name in config.mixed:
        key = config.arms[name].model_dump_json(exclude={"shots"})
        alike.setdefault(key, []).append(name)
    return tuple(
        tuple(sorted(names, key=lambda name: labels[name]))
        for names in alike.values()
        if len(names) > 1
    )


def _interval(value: Floats, replicates: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(replicates, [0.025, 0.975], method="nearest")
    return min(float(low), float(value[0])), float(value[0]), max(float(high), float(value[0]))


def _finite(
    interval: tuple[float, float, float],
) -> tuple[float | None, float | None, float | None]:
    low, value, high = (n if math.isfinite(n) else None for n in interval)
    return low, value, high


def curve_rows(curve: LearningCurve) -> list[list[str]]:
    """Return a line per arm: labels, score, labels that it is like, worth, share of all real."""
    return [
        [
            name,
            f"{reach.labels:.0f}",
            _told(reach.score, ".3f"),
            _told(reach.like, ".0f") if name in curve.drawn else "",
            _told(reach.worth, ".0f") if name in curve.drawn else "",
            _told(reach.share, ".3f"),
        ]
        for name, reach in (*curve.real.items(), *curve.drawn.items())
    ]


CURVE_HEADS = ("arm", "labels", "score", "like labels", "worth", "of all real")
CURVE_NOTE = (
    "Labels: real ones per class. 'like': how many real labels alone score as much (linear over"
    " their logarithm); 'worth': how many of them the drawn images replace; more than the last"
    " point is not told apart. 95 % intervals of a hierarchical bootstrap over draws of the shots,"
    " test images, seeds and generators."
)


def _told(interval: Sequence[float | None], form: str) -> str:
    low, value, high = (">all" if n is None else format(n, form) for n in interval)
    return f"{value} [{low}, {high}]"


def curve_lines(curve: LearningCurve) -> list[Line]:
    """Return what is drawn: real alone, the best control, and each design with drawn images."""
    lines = [Line(name="real alone", kind="real", points=_points(curve.real.values()))]
    if curve.controls:
        points = _points(curve.controls.values())
        lines.append(Line(name="best control", kind="control", points=points))
    grouped = {name for names in curve.designs for name in names}
    alone = [(name,) for name in curve.drawn if name not in grouped]
    for names in (*curve.designs, *alone):
        points = _points(curve.drawn[name] for name in names)
        told = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        lines.append(Line(name=told, kind="drawn", points=points))
    return lines


def worth_sentences(curve: LearningCurve) -> list[str]:
    """Return, arm by arm, what its drawn images are worth in real labels."""
    told = []
    for name, reach in curve.drawn.items():
        low, value, high = reach.worth
        worth = (
            "more labels than were asked for"
            if value is None
            else counted(round(value), "real label")
        )
        told.append(
            f"The drawn images of {name} are worth {worth} a class [{_count(low)}, {_count(high)}]."
        )
    return told


def _count(labels: float | None) -> str:
    return "more" if labels is None else f"{labels:.0f}"


def _points(reaches: Iterable[Reach]) -> tuple[tuple[float, Span], ...]:
    return tuple(
        (r.labels, Span(low=r.score[0], value=r.score[1], high=r.score[2]))
        for r in sorted(reaches, key=lambda reach: reach.labels)
    )
