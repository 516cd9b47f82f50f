"""A study as one page that needs nothing else: verdicts first, then what they rest on."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from factory.evaluate.study_drawn import DrawnFigures, diversity_rows, privacy_lines
from factory.evaluate.study_report import (
    ArmScores,
    StudyReport,
    drawn_again,
    floor_shown,
    interval_note,
)
from factory.evaluate.subgroups import subgroup_tables
from factory.evaluate.tasks import TASKS
from factory.evaluate.verdict import points
from factory.evaluate.worth import (
    CURVE_HEADS,
    CURVE_NOTE,
    LearningCurve,
    curve_picture,
    curve_rows,
)
from factory.measure.intervals import Estimate, counted, spread
from factory.measure.page import TEMPLATES

STYLE = (TEMPLATES / "page.css").read_text()
WIDTH, ROW, LEFT, RIGHT = 760, 30, 200, 40


def to_html(report: StudyReport, *, sheet: bytes | None = None, more: Iterable[str] = ()) -> str:
    """Return the page.

    Args:
        report: the figures.
        sheet: PNG of what was trained on, see `look_at`.
        more: further parts, HTML already, shown after the figures.
    """
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        *([f"<p><b>{escape(report.primary_verdict)}</b></p>"] if report.primary_verdict else []),
        *(_verdict(report, arm) for arm in report.comparisons),
        *(f"<p class=soft>Note: {escape(note)}</p>" for note in report.notes),
        f"<p>Tested on {report.num_test} real images, {counted(report.num_folds, 'fold')} x"
        f" {counted(report.num_seeds, 'seed')}{drawn_again(report)}; every arm was trained alike."
        " Differences are in pairs (same fold, seed and test images) against"
        f" <b>{escape(report.baseline)}</b>, the control with the best validation score.</p>",
        *(_curve(report.curve, report.task) if report.curve else ()),
        *_differences(report),
        *_arms(report),
        *(_classes(report) if report.floor else ()),
        *(_subgroups(report) if report.subgroups else ()),
        *(_drawn(report.drawn) if report.drawn else ()),
        *more,
        *(_sheet(sheet) if sheet else ()),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.name)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _verdict(report: StudyReport, arm: str) -> str:
    effect = report.effects[arm]
    kind = "verdict" if effect == "no evidence" else f"verdict {effect}"
    return f'<p class="{kind}">{escape(report.verdicts[arm])}</p>'


def _differences(report: StudyReport) -> Iterable[str]:
    if not report.comparisons:
        return
    title = next(iter(TASKS[report.task].shown.values()))
    yield f"<h2>Differences of {escape(title)} in points</h2>"
    yield _forest({arm: report.against(arm).difference for arm in report.comparisons})
    yield f"<p class=soft>{escape(interval_note(report))}</p>"
    controls = report.controls
    rows = [
        [
            arm,
            *(_points(found[c].difference) if c in found else "" for c in controls),
            f"{report.adjusted_p[arm]:.3g}" if arm in report.adjusted_p else "",
        ]
        for arm, found in report.comparisons.items()
    ]
    yield table(["arm", *(f"minus {control}" for control in controls), "p"], rows)


def _curve(curve: LearningCurve, task: str) -> Iterable[str]:
    title = next(iter(TASKS[task].shown.values()))
    yield f"<h2>{escape(title)} over real labels</h2>"
    yield curve_picture(curve, title)
    yield table(CURVE_HEADS, curve_rows(curve))
    yield f"<p class=soft>{escape(CURVE_NOTE)}</p>"


def _arms(report: StudyReport) -> Iterable[str]:
    shown = TASKS[report.task].shown
    yield "<h2>Arms</h2>"
    minutes = sum(arm.seconds for arm in report.arms.values()) / 60
    rows = [
        [
            name,
            str(arm.num_real),
            str(arm.num_synthetic),
            spread(arm.val),
            *(spread(arm.test.get(metric, ())) for metric in shown),
            f"{arm.seconds / 60:.1f}",
        ]
        for name, arm in report.arms.items()
    ]
    if report.floor:
        rows.insert(0, ["majority class", "", "", "", *floor_shown(report), ""])
    heads = ["arm", "real rows", "drawn rows", f"val {next(iter(shown.values()))}"]
    yield table([*heads, *shown.values(), "minutes"], rows)
    yield (
        "<p class=soft>Mean and standard deviation over trainings. Cost: all trainings took"
        f" {minutes:.0f} minutes of a core or GPU.</p>"
    )
    if report.knew:
        yield "<h2>Who knew what</h2>"
        items = (f"<li><b>{escape(n)}</b>: {escape(t)}</li>" for n, t in report.knew.items())
        yield f"<ul>{''.join(items)}</ul>"


def _subgroups(report: StudyReport) -> Iterable[str]:
    yield "<h2>Subgroups of the test part</h2>"
    title = next(iter(TASKS[report.task].shown.values()))
    for caption, heads, rows in subgroup_tables(report.subgroups, title, report.baseline, _points):
        yield f"<p><b>{escape(caption)}</b></p>"
        yield table(heads, rows)


def _classes(report: StudyReport) -> Iterable[str]:
    yield "<h2>Recall by class</h2>"
    yield table(
        ["arm", *report.class_names],
        [
            [name, *(f"{arm.recall[c]:.2f}" if c in arm.recall else "" for c in report.class_names)]
            for name, arm in report.arms.items()
        ],
    )
    best = max(report.comparisons, key=lambda arm: float(np.mean(report.arms[arm].val)), default="")
    shown = [name for name in (report.baseline, best) if name]
    yield "<h2>Confusion</h2><p class=soft>Rows: true class; share of its test images.</p>"
    tables = [_confusion(name, report.arms[name], report.class_names) for name in shown]
    yield f"<div class=pair>{''.join(tables)}</div>"


def _confusion(name: str, arm: ArmScores, class_names: Sequence[str]) -> str:
    table = np.array(arm.confusion)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    head = "".join(f"<th>{escape(c[:5])}</th>" for c in class_names)
    body = "".join(
        f"<tr><td>{escape(c)}</td>"
        + "".join(
            f'<td style="background: rgb(43 108 176 / {share:.2f});'
            f' color: {"#fff" if share > 0.5 else "inherit"}">{share:.2f}</td>'
            for share in row
        )
        + "</tr>"
        for c, row in zip(class_names, shares, strict=True)
    )
    return (
        f"<div class=wide><table><thead><tr><th>{escape(name)}</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _drawn(drawn: DrawnFigures) -> Iterable[str]:
    yield "<h2>Diversity and privacy</h2>"
    yield (
        f"<p class=soft>{drawn.num_drawn} drawn images of arm {escape(drawn.arm)}, fold"
        f" {drawn.fold}. Diversity: 1 - mean SSIM of pairs of a class.</p>"
    )
    yield table(["class", "drawn", "unseen real"], diversity_rows(drawn))
    yield "".join(f"<p>{escape(line)}</p>" for line in privacy_lines(drawn))


def _sheet(sheet: bytes) -> Iterable[str]:
    yield "<h2>What was trained on</h2>"
    yield "<p class=soft>Real images stand here: keep this page where the data may be.</p>"
    yield picture(sheet, "real, drawn, nearest real")


def _forest(found: Mapping[str, Estimate]) -> str:
    """Return the differences and their intervals as a drawing, 0 marked."""
    ends = [0.0, *(100 * v for e in found.values() for v in (e.low, e.high))]
    low, high = min(ends), max(ends)
    span = max(high - low, 1e-9)

    def x(points: float) -> float:
        return LEFT + (points - low) / span * (WIDTH - LEFT - RIGHT)

    height = ROW * len(found) + 24
    lines = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 20}" stroke="#8795a5"/>']
    lines.append(f'<text x="{x(0):.1f}" y="{height - 5}" text-anchor="middle">0</text>')
    for number, (name, each) in enumerate(found.items()):
        y = ROW * number + ROW / 2
        lines += [
            f'<text x="{LEFT - 12}" y="{y + 5}" text-anchor="end">{escape(name[:24])}</text>',
            f'<line x1="{x(100 * each.low):.1f}" x2="{x(100 * each.high):.1f}" y1="{y}" y2="{y}"'
            ' stroke="#2b6cb0" stroke-width="3"/>',
            f'<circle cx="{x(100 * each.value):.1f}" cy="{y}" r="6" fill="#2b6cb0"/>',
        ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" font-size="14"'
        f' aria-label="differences with intervals">{"".join(lines)}</svg>'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts, as HTML."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _points(found: Estimate) -> str:
    value, low, high = map(points, (found.value, found.low, found.high))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"


def picture(png: bytes, alt: str) -> str:
    """Return a PNG as HTML that needs no file beside it."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
