"""What a catalog holds, at a glance: counts, pictures of each class, and chips that choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from catalog.gallery.details import latest_runs
from catalog.gallery.filters import EXACT, RANGES, SORTS, Filters
from catalog.gallery.index import Index, View
from catalog.gallery.listing import COLUMNS, releases_of
from catalog.gallery.pictures import Thumbnail, Thumbnails
from catalog.gallery.records import verdicts_of
from catalog.schema import ACCEPTED

PER_CLASS = 6
"""Images of a class that the overview shows."""
MOST_CLASSES = 24
"""Classes with pictures; more are listed."""
NEWEST = 5
"""Runs, releases and studies that it names."""
CHIPS = {"class": 40, "status": 2, "run": 8, "model": 8, "method": 8}
"""Parameter -> most values that have a chip; the others are chosen below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCard:
    """A class: its images, and some of those that were accepted."""

    name: str
    images: int
    accepted: int
    rows: list[dict[str, Any]]
    thumbs: list[Thumbnail]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the first page shows."""

    images: int
    accepted: int
    classes: list[ClassCard]
    more: list[tuple[str, int]]
    """Classes without pictures, and their images."""
    rejected: list[tuple[str, int]]
    """Gate and how many images it rejected, most first."""
    measured: int
    """Images whose distance to training images was measured."""
    copies: int
    """Those that were rejected as too near."""
    runs: list[dict[str, Any]]
    num_runs: int
    models: list[dict[str, Any]]
    releases: list[Any]
    studies: list[dict[str, Any]]
    num_studies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A value that can be chosen, or is: how many images it leaves, and where it leads."""

    label: str
    count: int
    query: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What can be chosen of the images that are there."""

    chips: dict[str, list[Chip]]
    """Title of a group -> its chips; groups of one value are left out."""
    ranges: dict[str, tuple[float, float]]
    """Scores that some image has: parameter -> least and greatest."""
    sorts: list[str]


def overview_of(index: Index, view: View, thumbnails: Thumbnails) -> Overview:
    """Return what a catalog holds.

    Raises:
        CatalogError: a data file is gone.
    """
    held, values = Filters().condition(view)
    counts = index.ask(
        "SELECT class_name AS name, count(*) AS n, count(*) FILTER (gate_status = 'accepted')"
        f" AS good FROM images WHERE {held} GROUP BY 1 ORDER BY n DESC, 1",
        values,
    )
    gates = index.ask(
        f"SELECT gate, count(*) AS n FROM (SELECT unnest(gates) AS gate FROM images WHERE {held}"
        " AND gate_status <> 'accepted') GROUP BY 1 ORDER BY n DESC, 1",
        values,
    )
    copies = index.ask(f"SELECT count(copy_score) AS n FROM images WHERE {held}", values)[0]["n"]
    rejected = [(row["gate"], row["n"]) for row in gates]
    runs = [*latest_runs(view.catalog).values()][::-1]
    studies = verdicts_of(view.catalog)
    shown = sorted(counts[:MOST_CLASSES], key=lambda row: row["name"])
    return Overview(
        images=sum(row["n"] for row in counts),
        accepted=sum(row["good"] for row in counts),
        classes=_cards(index, view, shown, thumbnails),
        more=[(row["name"], row["n"]) for row in counts[MOST_CLASSES:]],
        rejected=rejected,
        measured=copies,
        copies=dict(rejected).get("copy", 0),
        runs=runs[:NEWEST],
        num_runs=len(runs),
        models=view.catalog.models().to_pylist(),
        releases=releases_of(index),
        studies=studies[:NEWEST],
        num_studies=len(studies),
    )


def samples_of(
    index: Index, view: View, name: str, count: int, filters: Filters | None = None
) -> list[dict[str, Any]]:
    """Return the newest accepted images of a class that pass `filters`."""
    filters = filters or Filters()
    only = {**filters.exact, "class": name, "status": ACCEPTED}
    if filters.exact.get("class", name) != name:
        return []
    held, values = replace(filters, exact=only).condition(view)
    return index.ask(
        f"SELECT {COLUMNS} FROM images WHERE {held} ORDER BY place DESC LIMIT {count}", values
    )


def choices_of(index: Index, view: View, filters: Filters) -> Choices:
    """Return chips with counts, and the scores that some image of the view has.

    A chip's count is of the images that all other filters leave.
    """
    chips = {title: _chips(index, view, filters, title) for title in CHIPS}
    chips["rejected by"] = _gates(index, view, filters)
    chips["reviewers say"] = _reviews(index, view, filters)
    ranges = {name: view.ends[column] for name, column in RANGES.items() if column in view.ends}
    several = {name: each for name, each in ranges.items() if each[0] < each[1]}
    return Choices(
        chips={title: own for title, own in chips.items() if len(own) > 1 or _any(own)},
        ranges=several,
        sorts=[s for s in SORTS if s.removesuffix("_down") in (*several, "newest", "oldest")],
    )


def _any(chips: Sequence[Chip]) -> bool:
    return any(chip.chosen for chip in chips)


def _cards(
    index: Index, view: View, counts: Sequence[Mapping[str, Any]], thumbnails: Thumbnails
) -> list[ClassCard]:
    """Return the cards of classes; the pictures of all are read together."""
    rows = [samples_of(index, view, row["name"], PER_CLASS) for row in counts]
    thumbs = iter(thumbnails.of(view, [each for own in rows for each in own]))
    return [
        ClassCard(
            name=row["name"],
            images=row["n"],
            accepted=row["good"],
            rows=own,
            thumbs=[next(thumbs) for _ in own],
        )
        for row, own in zip(counts, rows, strict=True)
    ]


def _chips(index: Index, view: View, filters: Filters, name: str) -> list[Chip]:
    """Return the chips of one column, most images first."""
    chosen = filters.exact.get(name, "")
    others = replace(filters, exact={n: v for n, v in filters.exact.items() if n != name})
    held, values = others.condition(view)
    rows = index.ask(
        f"SELECT {EXACT[name]} AS value, count(*) AS n FROM images WHERE {held}"
        f" GROUP BY 1 ORDER BY n DESC, 1 LIMIT {CHIPS[name]}",
        values,
    )
    found = {str(row["value"]): row["n"] for row in rows}
    if chosen and chosen not in found:
        found[chosen] = 0
    return [
        Chip(
            label=value,
            count=count,
            query=others.query() if value == chosen else others.query(**{name: value}),
            chosen=value == chosen,
        )
        for value, count in found.items()
    ]


def _reviews(index: Index, view: View, filters: Filters) -> list[Chip]:
    """Return the chips of what people say together; none where nobody said anything."""
    if not index.listen():
        return []
    others = replace(filters, review="")
    held, values = others.condition(view)
    rows = index.ask(
        "SELECT coalesce(review, 'none') AS value, count(*) AS n FROM images LEFT JOIN reviewed"
        f" USING (image_id) WHERE {held} GROUP BY 1 ORDER BY n DESC, 1",
        values,
    )
    return [
        Chip(
            label=row["value"],
            count=row["n"],
            query=others.query()
            if row["value"] == filters.review
            else others.query(review=row["value"]),
            chosen=row["value"] == filters.review,
        )
        for row in rows
    ]


def _gates(index: Index, view: View, filters: Filters) -> list[Chip]:
    """Return the chips of gates that rejected an image."""
    others = replace(filters, reason="")
    held, values = others.condition(view)
    rows = index.ask(
        f"SELECT gate, count(*) AS n FROM (SELECT unnest(gates) AS gate FROM images WHERE {held}"
        " AND gate_status <> 'accepted') GROUP BY 1 ORDER BY n DESC, 1 LIMIT 12",
        values,
    )
    found = {str(row["gate"]): row["n"] for row in rows}
    if filters.reason and filters.reason not in found:
        found[filters.reason] = 0
    return [
        Chip(
            label=gate,
            count=count,
            query=others.query() if gate == filters.reason else others.query(reason=gate),
            chosen=gate == filters.reason,
        )
        for gate, count in found.items()
    ]
