"""Two sets of images side by side: what they share, their classes, their scores, their pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catalog.gallery.charts import Histogram, counts_of, histogram, ranges_of
from catalog.gallery.filters import Filters
from catalog.gallery.index import Index, View
from catalog.gallery.listing import COLUMNS

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
