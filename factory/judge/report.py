"""A judgement as a page, as JSON, and as the few lines that the command prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from factory.atomic import write_text
from factory.judge.config import FIGURES, PAGE
from factory.judge.figures import FEW, NEIGHBOURS, SetFigures
from factory.judge.judge import Judged, JudgeReport
from factory.measure.page import figure, number, rendered, thousandfold

TEMPLATE = Path(__file__).parent / "templates" / "judge.html"


def write_report(judged: Judged, output: Path) -> None:
    """Write judge.html and judge.json into `output`.

    Raises:
        OutputError: they cannot be written.
    """
    write_text(output / FIGURES, json.dumps(asdict(judged.report), indent=1) + "\n")
    write_text(output / PAGE, to_html(judged))


def to_html(judged: Judged) -> str:
    """Return the page; it holds its pictures."""
    report = judged.report
    sets = [report.floor, *report.sets]
    values = {
        "title": f"{report.generator}: judged",
        "r": report,
        "sets": sets,
        "overall": overall(sets),
        "few": FEW,
        "neighbours": NEIGHBOURS,
        "sheets": judged.sheets,
    }
    return rendered(TEMPLATE, values)


def to_text(report: JudgeReport) -> str:
    """Return the figures of all classes together, in columns."""
    sets = [report.floor, *report.sets]
    lines = [["", *(each.name for each in sets)], *overall(sets)]
    dice = {each.name: each.dice for each in report.pairs}
    for name in dict.fromkeys(name for own in dice.values() for name in own):
        lines.append([f"Dice, {name}", *(figure(dice.get(e.name, {}).get(name)) for e in sets)])
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )
    return "\n".join([*padded, *report.notes])


def overall(sets: Sequence[SetFigures]) -> list[list[str]]:
    """Return a row for every figure, a column for every set; figures that nobody has are left out.

    A star marks distances of few images.
    """
    measures = dict.fromkeys(name for each in sets for name in each.diversity)
    spaces = dict.fromkeys(name for each in sets for name in each.copies)

    def starred(text: str, found: SetFigures) -> str:
        return f"{text} *" if found.distances.few else text

    def covers(found: SetFigures, name: str) -> str:
        return number(getattr(found.distances.overlap, name, None), 2)

    rows = {
        "images": [str(e.num_images) for e in sets],
        "images in distances": [starred(str(e.distances.n), e) for e in sets],
        "KID x 1000": [starred(thousandfold(e.distances.kid), e) for e in sets],
        "Frechet distance": [starred(number(e.distances.frechet, 1), e) for e in sets],
    }
    for name in ("precision", "recall", "density", "coverage"):
        rows[name] = [covers(e, name) for e in sets]
    for who in ("judge", "expert"):
        found = [getattr(e, who) for e in sets]
        rows[f"{who} sees what was asked"] = [figure(f.overall if f else None) for f in found]
    for name in measures:
        means = [e.diversity[name].mean if name in e.diversity else None for e in sets]
        rows[name] = [figure(mean) for mean in means]
    rows["SSIM to nearest learnt image"] = [figure(e.ssim_to_nearest) for e in sets]
    for space in spaces:
        shares = [e.copies[space].share if space in e.copies else None for e in sets]
        rows[f"copies, {space}"] = [figure(share) for share in shares]
    return [[name, *cells] for name, cells in rows.items() if any(cells)]
