"""The picture on README's first screen, drawn from the tables of knowledge_travels.md.

python docs/studies/learning_curve.py

Written beside the page as knowledge_travels.svg. The bands are those of the gain, 95 %, around the
score with drawn cells: the page has no interval of the other line.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from factory.measure.charts import Line, Span, curve

PAGE = Path(__file__).with_name("knowledge_travels.md")
PICTURE = PAGE.with_suffix(".svg")
LOOK = """<style>
text { fill: #5b6b7b; font-family: system-ui, sans-serif; } .grid { stroke: #d9e0e7; }
.real { --of: #5b6b7b; } .control { --of: #b7500f; } .drawn { --of: #2b6cb0; }
.real, .control, .drawn { fill: var(--of); stroke: var(--of); } text { stroke: none !important; }
@media (prefers-color-scheme: dark) { text { fill: #9babba; } .grid { stroke: #344250; }
  .real { --of: #9babba; } .control { --of: #f0a35e; } .drawn { --of: #7db4ea; } }
polygon { stroke: none !important; } polyline { fill: none !important; }
</style>"""


def rows(page: str, head: str) -> Iterator[list[str]]:
    """Yield the cells of the table whose first line begins with `head`."""
    lines = page[page.index(f"\n| {head}") :].strip().splitlines()
    for line in lines[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def lines(page: str) -> list[Line]:
    """Return the curves of mixed and of real sets, and the best control at four labels."""
    real, mixed, best = [], [], (0.0, 0.0)
    for labels, alone, drawn, gain, _ in rows(page, "labels a class"):
        count = float(re.findall(r"\d+", labels)[0])
        if alone:
            real.append((count, _exactly(float(alone))))
            moved = [float(v) / 100 for v in re.findall(r"-?\d+\.\d+", gain)[1:3]]
            low, high = (float(alone) + by for by in moved)
            mixed.append((count, Span(low=low, value=float(drawn), high=high)))
        else:
            mixed.append((count, _exactly(float(drawn))))
    for name, score, *_ in rows(page, "control"):
        if name.startswith("**"):  # from there on images that may not travel
            break
        best = max(best, (float(score.split()[0]), 4.0))
    unlabelled = []
    for labels, _, drawn, *_ in rows(page, "labels, and"):
        value, low, high = (float(v) for v in re.findall(r"\d\.\d+", drawn))
        unlabelled.append((float(labels), Span(low=low, value=value, high=high)))
    return [
        Line(name="with drawn cells", kind="drawn", points=tuple(mixed)),
        Line(name="and unlabelled images", kind="drawn", points=tuple(unlabelled)),
        Line(name="real alone", kind="real", points=tuple(real)),
        Line(name="best control", kind="control", points=((best[1], _exactly(best[0])),)),
    ]


def picture(page: str) -> str:
    """Return the SVG: what `factory evaluate` draws on a study's page, with its own colours."""
    drawn = curve(lines(page), x_title="real labels a class", y_title="macro-F1 on unseen cells")
    found = re.search(r"<svg.*</svg>", drawn, re.DOTALL)
    assert found is not None  # noqa: S101 -- charts.curve returns one
    bare = re.sub(r"<title>.*?</title>", "", found[0])
    return bare.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f">{LOOK}", 1
    )


def _exactly(value: float) -> Span:
    return Span(low=value, value=value, high=value)


if __name__ == "__main__":
    PICTURE.write_text(f"{picture(PAGE.read_text())}\n")
