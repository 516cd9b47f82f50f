"""Histograms of scores, as the rectangles of a drawing; a template writes them down as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.gallery.filters import RANGES, Filters
from catalog.gallery.index import Index, View
from catalog.gallery.listing import COLUMNS

BINS = 40
WIDTH, HEIGHT, FOOT = 640, 120, 26
KINDS = {"accepted": 0, "rejected": 1, "A": 0, "B": 2}
"""Colours of names that stay the same when one of them is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One colour of a histogram: rectangles (x, y, width, height) in the drawing's units."""

    name: str
    kind: str
    """Its class in the style sheet."""
    total: int
    bars: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How a score spreads over some images, thresholds marked."""

    column: str
    low: float
    high: float
    series: tuple[Series, ...]
    marks: tuple[tuple[float, float], ...]
    """(x, value) of every threshold that lies within the drawing."""
    beyond: tuple[float, ...]
    """Thresholds that do not."""

    width: int = WIDTH
    height: int = HEIGHT
    foot: int = FOOT


def ranges_of(index: Index, view: View, filters: Filters) -> dict[str, tuple[float, float]]:
    """Return column -> (least, greatest) of the scores that any of the images has."""
    held, values = filters.condition(view)
    finite = ", ".join(
        f"min({c}) FILTER (isfinite({c})) AS low_{c}, max({c}) FILTER (isfinite({c})) AS high_{c}"
        for c in RANGES.values()
    )
    (row,) = index.ask(f"SELECT {finite} FROM images WHERE {held}", values)
    return {
        c: (float(row[f"low_{c}"]), float(row[f"high_{c}"]))
        for c in RANGES.values()
        if row[f"low_{c}"] is not None
    }


def counts_of(
    index: Index, view: View, filters: Filters, column: str, ends: tuple[float, float], by: str
) -> dict[str, list[int]]:
    """Return `by`'s values -> images in each of `BINS` equal bins from least to greatest."""
    held, values = filters.condition(view)
    low, high = ends
    step = (high - low) / BINS or 1.0
    rows = index.ask(
        f"SELECT {by} AS kind, least({BINS - 1}, floor(({column} - ?) / ?))::INTEGER AS bin,"
        f" count(*) AS n FROM images WHERE ({held}) AND isfinite({column})"
        f" AND {column} BETWEEN ? AND ? GROUP BY ALL",
        [low, step, *values, low, high],
    )
    counts: dict[str, list[int]] = {}
    for row in rows:
        counts.setdefault(row["kind"], [0] * BINS)[max(0, row["bin"])] += row["n"]
    return counts


def histogram(
    column: str,
    ends: tuple[float, float],
    counts: Mapping[str, Sequence[int]],
    *,
    marks: Sequence[float] = (),
    shares: bool = False,
) -> Histogram:
    """Return the drawing of `counts` (name -> images per bin): a colour each, square-root heights.

    With `shares`, every name is drawn to its own total, so that unequal sets compare.
    """
    totals = {name: sum(values) for name, values in counts.items()}
    heights = {
        name: [math.sqrt(v / (max(totals[name], 1) if shares else 1)) for v in values]
        for name, values in counts.items()
    }
    tallest = max((h for each in heights.values() for h in each), default=0.0) or 1.0
    wide = WIDTH / BINS
    share = wide / max(len(counts), 1)
    series = tuple(
        Series(
            name=name,
            kind=f"series-{KINDS.get(name, number)}",
            total=totals[name],
            bars=tuple(
                (
                    round(bin_ * wide + number * share, 2),
                    round(HEIGHT * (1 - h / tallest), 2),
                    round(share * 0.9, 2),
                    round(HEIGHT * h / tallest, 2),
                )
                for bin_, h in enumerate(heights[name])
                if h > 0
            ),
        )
        for number, name in enumerate(counts)
    )
    low, high = ends
    span = high - low or 1.0
    within = tuple((round(WIDTH * (m - low) / span, 2), m) for m in marks if low <= m <= high)
    beyond = tuple(m for m in marks if not low <= m <= high)
    return Histogram(column=column, low=low, high=high, series=series, marks=within, beyond=beyond)


PAIRS = 40
NAMES = ("A", "B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two sets have in common and what not."""

    counts: tuple[int, int]
    shared: int
    """Images that both have."""
    classes: list[tuple[str, int, int]]
    """Class, images of A, images of B."""
    accepted: tuple[int, int]
    charts: list[Histogram]
    """Each set drawn to its own total."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]]
    """Images of one class with one number in their recipes: the first of each set."""


def comparison(index: Index, views: Sequence[View], sides: Sequence[Filters]) -> Comparison:
    """Compare two filtered views of one catalog."""
    held = [side.condition(view) for side, view in zip(sides, views, strict=True)]
    values = [value for _, each in held for value in each]
    both = " , ".join(
        f"{name} AS (SELECT {COLUMNS} FROM images WHERE {condition})"
        for name, (condition, _) in zip("ab", held, strict=True)
    )
    classes = [_classes(index, condition, own) for condition, own in held]
    names = sorted({*classes[0], *classes[1]})
    shared = index.ask(
        f"WITH {both} SELECT count(*) AS n FROM a WHERE image_id IN (SELECT image_id FROM b)",
        values,
    )[0]["n"]
    empty = (0, 0)
    return Comparison(
        counts=(_total(classes[0]), _total(classes[1])),
        shared=shared,
        classes=[(n, classes[0].get(n, empty)[0], classes[1].get(n, empty)[0]) for n in names],
        accepted=(sum(v[1] for v in classes[0].values()), sum(v[1] for v in classes[1].values())),
        charts=_charts(index, views, sides),
        pairs=_pairs(index, both, values),
    )


def _classes(index: Index, held: str, values: list[object]) -> dict[str, tuple[int, int]]:
    """Return class -> (images, accepted ones)."""
    rows = index.ask(
        "SELECT class_name, count(*) AS n, count(*) FILTER (gate_status = 'accepted') AS good"
        f" FROM images WHERE {held} GROUP BY 1",
        values,
    )
    return {row["class_name"]: (row["n"], row["good"]) for row in rows}


def _total(classes: dict[str, tuple[int, int]]) -> int:
    return sum(count for count, _ in classes.values())


def _charts(index: Index, views: Sequence[View], sides: Sequence[Filters]) -> list[Histogram]:
    spread = [ranges_of(index, view, side) for view, side in zip(views, sides, strict=True)]
    charts = []
    for column in spread[0].keys() & spread[1].keys():
        low = min(each[column][0] for each in spread)
        high = max(each[column][1] for each in spread)
        counts = {}
        for name, view, side in zip(NAMES, views, sides, strict=True):
            found = counts_of(index, view, side, column, (low, high), "true")
            counts[name] = next(iter(found.values()), [])
        charts.append(histogram(column, (low, high), counts, shares=True))
    return sorted(charts, key=lambda chart: chart.column)


def _pairs(
    index: Index, both: str, values: list[object]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return images of the same class and number in their recipe, one pair of each."""
    first = "row_number() OVER (PARTITION BY class_name, recipe_index ORDER BY place) AS nth"
    rows = index.ask(
        f"WITH {both}, a1 AS (SELECT *, {first} FROM a QUALIFY nth = 1),"
        f" b1 AS (SELECT *, {first} FROM b QUALIFY nth = 1)"
        " SELECT a1 AS a, b1 AS b FROM a1 JOIN b1 USING (class_name, recipe_index)"
        f" ORDER BY recipe_index, class_name LIMIT {PAIRS}",
        values,
    )
    return [(row["a"], row["b"]) for row in rows]
