"""What drawn images are worth in real labels: read off the curve of the real images alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from factory.evaluate.config import StudyConfig
from factory.evaluate.designs import Real, SyntheticOnly
from factory.evaluate.factors import Crossed, Floats, labels_worth, resampled
from factory.evaluate.units import Unit

Scale = Callable[[float], float]


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


def labels_of(config: StudyConfig, arm: str, units: Sequence[Unit]) -> float:
    """Return the real labels per class of an arm: its shots, or a class's mean of its images."""
    if isinstance(config.arms[arm], SyntheticOnly):
        return 0.0
    if shots := config.shots_of(arm):
        return float(shots)
    held = [
        len({row.id for row in unit.manifest.rows if not row.synthetic})
        for unit in units
        if unit.manifest.arm == arm and unit.draw in (None, 0)
    ]
    return float(np.mean(held)) / len(units[0].manifest.class_names)


def learning_curve(
    config: StudyConfig, units: Sequence[Unit], found: Mapping[str, Crossed]
) -> LearningCurve | None:
    """Return the curve of real arms at several numbers of labels; None: there are not two.

    Args:
        config: the study.
        units: its trainings.
        found: what test images add to the score of each arm.
    """
    plain = [
        n for n, a in config.arms.items() if isinstance(a, Real) and a.augment and not a.strong
    ]
    real = {labels_of(config, name, units): name for name in reversed(plain)}
    if len(real) < 2 or not config.draws:
        return None
    points = [(labels, real[labels]) for labels in sorted(real)]
    names = [*(name for _, name in points), *config.mixed]
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


def curve_picture(curve: LearningCurve, title: str) -> str:
    """Return the curve as SVG: real alone with its band, arms with drawn images as points."""
    wide, tall, left, top = 640, 340, 60, 16
    reaches = [*curve.real.values(), *curve.drawn.values()]
    most = max(reach.labels for reach in reaches)
    low = math.floor(10 * min(reach.score[0] for reach in reaches)) / 10
    high = math.ceil(10 * max(reach.score[2] for reach in reaches)) / 10

    def x(labels: float) -> float:
        span = math.log1p(most) or 1.0
        return left + 20 + (wide - left - 60) * math.log1p(labels) / span

    def y(score: float) -> float:
        return top + (tall - top - 44) * (high - score) / max(high - low, 1e-9)

    real = list(curve.real.values())
    band = [(r.labels, r.score[2]) for r in real] + [(r.labels, r.score[0]) for r in real[::-1]]
    lines = [
        f'<line x1="{left}" x2="{wide}" y1="{y(s):.1f}" y2="{y(s):.1f}" stroke="#d9e0e7"/>'
        f'<text x="{left - 8}" y="{y(s) + 5:.1f}" text-anchor="end">{s:.1f}</text>'
        for s in np.arange(low, high + 0.05, 0.1)
    ]
    lines += [
        f'<polygon points="{_path(band, x, y)}" fill="#8795a5" opacity="0.25"/>',
        f'<polyline points="{_path([(r.labels, r.score[1]) for r in real], x, y)}" fill="none"'
        ' stroke="#5b6b7b" stroke-width="2"/>',
    ]
    for color, arms in (("#5b6b7b", curve.real), ("#2b6cb0", curve.drawn)):
        lines += [
            f'<line x1="{x(r.labels):.1f}" x2="{x(r.labels):.1f}" y1="{y(r.score[0]):.1f}"'
            f' y2="{y(r.score[2]):.1f}" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{x(r.labels):.1f}" cy="{y(r.score[1]):.1f}" r="5" fill="{color}">'
            f"<title>{escape(name)}: {_told(r.score, '.3f')}</title></circle>"
            for name, r in arms.items()
        ]
    lines += [
        f'<text x="{x(n):.1f}" y="{tall - 24}" text-anchor="middle">{n:.0f}</text>'
        for n in sorted({round(reach.labels) for reach in reaches})
    ]
    lines.append(
        f'<text x="{wide / 2}" y="{tall - 4}" text-anchor="middle">real labels per class'
        " (grey: real alone, blue: with drawn images)</text>"
    )
    return (
        f'<svg viewBox="0 0 {wide} {tall}" width="{wide}" role="img" font-size="14"'
        f' aria-label="{escape(title)} over real labels per class">{"".join(lines)}</svg>'
    )


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(labels):.1f},{y(score):.1f}" for labels, score in points)
