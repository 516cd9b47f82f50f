"""A study as one page that needs nothing else: one sentence, one figure, then what they rest on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from factory.evaluate.study_drawn import (
    copies_warning,
    diversity_rows,
    privacy_lines,
)
from factory.evaluate.study_report import (
    ArmScores,
    StudyReport,
    drawn_again,
    floor_shown,
    interval_note,
)
from factory.evaluate.study_sheet import Mistake
from factory.evaluate.subgroups import subgroup_tables
from factory.evaluate.tasks import TASKS
from factory.evaluate.verdict import points
from factory.evaluate.worth import (
    CURVE_HEADS,
    CURVE_NOTE,
    curve_lines,
    curve_rows,
    worth_sentences,
)
from factory.measure.charts import Span, curve, forest, strip
from factory.measure.intervals import Estimate, counted, spread
from factory.measure.page import rendered
from factory.terminal import duration

TEMPLATE = Path(__file__).parent / "templates" / "study.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a study was made: what somebody needs to make it again."""

    command: str = ""
    data: str = ""
    date: str = ""
    config: str = ""
    """YAML."""
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a page shows beside the figures of a report."""

    made: Made = Made()
    sheet: bytes | None = None
    """PNG of what was trained on, see `look_at`."""
    errors: Mapping[str, Sequence[Mistake]] = field(default_factory=dict)
    """See `mistakes`."""
    power: Sequence[str] = ()
    """What was said of it beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sentence:
    effect: str
    sentence: str


def to_html(report: StudyReport, beside: Beside | None = None) -> str:
    """Return the page."""
    return rendered(TEMPLATE, page_values(report, beside or Beside()))


def page_values(report: StudyReport, beside: Beside) -> dict[str, object]:
    """Return what the template is filled with; a template that extends it takes the same."""
    shown = TASKS[report.task].shown
    title = next(iter(shown.values()))
    head, *others = _sentences(report)
    sizes = class_sizes(report)
    seconds = sum(arm.seconds for arm in report.arms.values())
    arm = error_arm(report)
    return {
        "title": report.name,
        "r": report,
        "made": beside.made,
        "headline": head,
        "others": others,
        "against": ", ".join(dict.fromkeys(report.baselines.values())) or report.baseline,
        "protocol": f"{counted(report.num_folds, 'fold')} x {counted(report.num_seeds, 'seed')}"
        f"{drawn_again(report)}",
        "figure": _figure(report, title),
        "figure_title": f"{title} over real labels" if report.curve else f"{title} of every arm",
        "worth": worth_sentences(report.curve) if report.curve else [],
        "curve_heads": CURVE_HEADS,
        "curve_rows": curve_rows(report.curve) if report.curve else [],
        "curve_note": CURVE_NOTE,
        "privacy": privacy_lines(report.drawn) if report.drawn else [],
        "copies": copies_warning(report.drawn),
        "forest": _forest(report, title),
        "difference_heads": ["arm", *(f"minus {name}" for name in report.controls), *_p(report)],
        "difference_rows": list(_differences(report)),
        "interval_note": interval_note(report) if report.comparisons else "",
        "arm_heads": ["arm", "real rows", "drawn rows", f"val {title}", *shown.values(), "time"],
        "arm_rows": list(_arms(report)),
        "arm_names": list(report.arms),
        "cost": duration(seconds),
        "classes": list(_classes(report, sizes)) if report.floor else [],
        "class_sizes": ", ".join(f"{name} {n}" for name, n in sizes.items() if n),
        "confusions": list(_confusions(report, sizes)) if report.floor else [],
        "errors": beside.errors,
        "error_arm": arm or "",
        "error_control": report.baselines.get(arm, report.baseline) if arm else "",
        "sheet": beside.sheet,
        "subgroups": list(subgroup_tables(report.subgroups, title, report.baseline, _points)),
        "diversity": _diversity(report, sizes),
        "power": beside.power,
    }


def error_arm(report: StudyReport) -> str | None:
    """Return the arm with drawn images that the page is about: named beforehand, or best by val."""
    named = (report.primary or "").partition(" minus ")[0]
    if named in report.comparisons and report.arms[named].num_synthetic:
        return named
    drawn = [name for name in report.comparisons if report.arms[name].num_synthetic]
    return max(drawn, key=lambda name: _mean(report.arms[name].val), default=None)


def class_sizes(report: StudyReport) -> dict[str, int]:
    """Return the test images of each class, of classifiers; 0 of those that are left out."""
    times = report.num_seeds * report.num_draws * report.num_generators
    table = np.array(report.arms[report.baseline].confusion)
    if not table.size:
        return {}
    counts = (table.sum(axis=1) / times).round().astype(int).tolist()
    return dict(zip(report.class_names, counts, strict=True))


def _sentences(report: StudyReport) -> list[_Sentence]:
    """Return the sentences of all arms with drawn images, that of the page's arm first."""
    told = {
        arm: _Sentence(effect=report.effects[arm], sentence=report.verdicts[arm])
        for arm in report.comparisons
    }
    first = error_arm(report)
    ordered = [told.pop(first), *told.values()] if first in told else [*told.values()]
    if report.primary_verdict and report.primary:
        arm = report.primary.partition(" minus ")[0]
        verdict = report.primary_verdict.partition(": ")[2]
        named = _Sentence(effect=report.effects.get(arm, ""), sentence=verdict)
        ordered.insert(0, named)
    nothing = "No arm has drawn images: these are the controls alone."
    return [_capital(each) for each in ordered] or [_Sentence(effect="", sentence=nothing)]


def _capital(told: _Sentence) -> _Sentence:
    """Return a sentence that begins with a capital, unless a name of somebody begins it."""
    text = told.sentence
    plain = text.startswith(("no ", "drawn "))
    return replace(told, sentence=text[0].upper() + text[1:]) if plain else told


def _figure(report: StudyReport, title: str) -> str:
    if report.curve is not None:
        return curve(curve_lines(report.curve), x_title="real labels per class", y_title=title)
    metric = next(iter(TASKS[report.task].shown))
    kinds = {name: _kind(report, name) for name in report.arms}
    return strip({n: a.test.get(metric, ()) for n, a in report.arms.items()}, kinds, title=title)


def _kind(report: StudyReport, name: str) -> str:
    if report.arms[name].num_synthetic:
        return "drawn"
    return "control" if name == report.baseline else "real"


def _forest(report: StudyReport, title: str) -> str:
    rows = {
        f"{arm} minus {report.baselines.get(arm, report.baseline)}": _span(
            report.against(arm).difference
        )
        for arm in report.comparisons
    }
    return forest(rows, title=f"difference of {title} in points, 95 %") if rows else ""


def _span(found: Estimate) -> Span:
    low, value, high = (100 * v for v in (found.low, found.value, found.high))
    return Span(low=low, value=value, high=high)


def _p(report: StudyReport) -> list[str]:
    return ["p"] if report.adjusted_p else []


def _differences(report: StudyReport) -> Iterator[list[str]]:
    for arm, found in report.comparisons.items():
        row = [arm, *(_points(found[c].difference) if c in found else "" for c in report.controls)]
        p = [f"{report.adjusted_p[arm]:.3g}" if arm in report.adjusted_p else ""]
        yield [*row, *(p if report.adjusted_p else [])]


def _arms(report: StudyReport) -> Iterator[list[str]]:
    shown = TASKS[report.task].shown
    if report.floor:
        yield ["majority class", "", "", "", *floor_shown(report), ""]
    for name, arm in report.arms.items():
        told = (spread(arm.test.get(metric, ())) for metric in shown)
        rows = (str(arm.num_real), str(arm.num_synthetic))
        yield [name, *rows, spread(arm.val), *told, duration(arm.seconds)]


def _classes(report: StudyReport, sizes: Mapping[str, int]) -> Iterator[list[str]]:
    for name, count in sizes.items():
        if count:
            recalls = (arm.recall.get(name) for arm in report.arms.values())
            yield [name, str(count), *("" if r is None else f"{r:.2f}" for r in recalls)]


def _confusions(report: StudyReport, sizes: Mapping[str, int]) -> Iterator[dict[str, object]]:
    """Yield the tables of the baseline and of the page's arm; classes that are absent are not."""
    arm = error_arm(report)
    control = report.baselines.get(arm, report.baseline) if arm else report.baseline
    for name in dict.fromkeys([control, arm]):
        if name is not None:
            yield {"arm": name, **_confusion(report.arms[name], report.class_names, sizes)}


def _confusion(arm: ArmScores, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, object]:
    table = np.array(arm.confusion)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    there = [n for n, name in enumerate(names) if sizes[name]]
    called = [n for n in range(len(names)) if n in there or table[:, n].any()]
    return {
        "names": [names[n] for n in called],
        "rows": [(names[n], [float(shares[n, m]) for m in called]) for n in there],
    }


def _diversity(report: StudyReport, sizes: Mapping[str, int]) -> list[list[str]]:
    if report.drawn is None:
        return []
    return [row for row in diversity_rows(report.drawn) if sizes.get(row[0], 1)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values or (0.0,)))


def _points(found: Estimate) -> str:
    value, low, high = map(points, (found.value, found.low, found.high))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"
