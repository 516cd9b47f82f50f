"""What people said, asked of the index: which image comes next, what each said, who agrees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.gallery.filters import Filters
from catalog.gallery.index import Index, View
from catalog.gallery.listing import COLUMNS
from catalog.reviews import Agreement, agreements
from catalog.schema import ACCEPTED, REJECTED

REASONS, DISPUTED = 8, 60
"""Earlier reasons that are offered; disputed images that are shown."""
_ORDER = "hash(image_id)"
"""Mixed, and the same for everyone: no run or class comes in one piece, and reviewers who stop
early have looked at the same images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What a reviewer has to look at: all that the filters leave, in one order for everyone."""

    index: Index
    held: str
    values: list[object]
    reviewer: str

    @classmethod
    def of(cls, index: Index, view: View, filters: Filters, reviewer: str) -> "Queue":
        """Return the queue of `reviewer`."""
        held, values = filters.condition(view)
        return cls(index=index, held=held, values=values, reviewer=reviewer)

    def progress(self) -> tuple[int, int]:
        """Return how many images have this reviewer's verdict, and how many there are."""
        (row,) = self.index.ask(
            "SELECT count(*) AS n, count(*) FILTER (image_id IN (SELECT image_id FROM reviews"
            f" WHERE reviewer = ?)) AS done FROM images WHERE {self.held}",
            [self.reviewer, *self.values],
        )
        return row["done"], row["n"]

    def next(self, after: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the first image without a verdict of this reviewer; `after` one, if any comes."""
        if after is not None:
            place = "(hash(image_id), place) > (hash(?), ?)"
            if found := self._first(place, [after["image_id"], after["place"]]):
                return found
        return self._first("true", [])

    def _first(self, beyond: str, values: list[object]) -> dict[str, Any] | None:
        rows = self.index.ask(
            f"SELECT {COLUMNS} FROM images WHERE ({self.held}) AND {beyond} AND image_id NOT IN"
            " (SELECT image_id FROM reviews WHERE reviewer = ?)"
            f" ORDER BY {_ORDER}, place LIMIT 1",
            [*self.values, *values, self.reviewer],
        )
        return rows[0] if rows else None


def last_of(index: Index, reviewer: str) -> dict[str, Any] | None:
    """Return the latest verdict of a reviewer that stands, of an image that is shown."""
    rows = index.ask(
        "SELECT r.*, i.run_id, i.class_name FROM reviews r JOIN images i USING (image_id)"
        " WHERE reviewer = ? AND image_id NOT IN (FROM hidden)"
        " ORDER BY reviewed_at DESC, event DESC, i.place LIMIT 1",
        [reviewer],
    )
    return rows[0] if rows else None


def said_of(index: Index, image_id: str) -> list[dict[str, Any]]:
    """Return every verdict on an image, the latest first; `stands` tells those that count."""
    return index.ask(
        "SELECT e.*, (image_id, reviewer, event) IN (SELECT (image_id, reviewer, event)"
        " FROM reviews) AS stands FROM review_events e WHERE image_id = ?"
        " ORDER BY reviewed_at DESC, event DESC",
        [image_id],
    )


def reasons_of(index: Index, reviewer: str) -> list[str]:
    """Return the reasons that a reviewer gave most often."""
    rows = index.ask(
        "SELECT reason FROM reviews WHERE reviewer = ? AND reason IS NOT NULL"
        f" GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {REASONS}",
        [reviewer],
    )
    return [row["reason"] for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What all reviewers said."""

    reviewers: list[dict[str, Any]]
    """name, accepted, rejected, withdrawn, blind, latest of each."""
    images: dict[str, int]
    """'accepted', 'rejected', 'disputed' -> images."""
    beside_gates: list[tuple[str, str, int]]
    """gate_status, what reviewers say together, images."""
    pairs: list[Agreement]
    disputed: list[dict[str, Any]]
    """Rows of the index, with `verdicts`: (reviewer, verdict, reason) of each."""


def summary_of(index: Index, view: View, filters: Filters) -> Summary:
    """Return what people said of the images that the filters leave."""
    held, values = filters.condition(view)
    own = f"image_id IN (SELECT image_id FROM images WHERE {held})"
    reviewers = index.ask(
        f"""SELECT reviewer AS name, count(*) FILTER (verdict = '{ACCEPTED}') AS accepted,
        count(*) FILTER (verdict = '{REJECTED}') AS rejected, count(*) FILTER (is_blind) AS blind,
        max(reviewed_at) AS latest FROM reviews WHERE {own} GROUP BY 1 ORDER BY 1""",
        values,
    )
    beside = index.ask(
        "SELECT gate_status, review, count(*) AS n FROM images JOIN reviewed USING (image_id)"
        f" WHERE {held} GROUP BY ALL ORDER BY ALL",
        values,
    )
    images: dict[str, int] = {}
    for row in beside:
        images[row["review"]] = images.get(row["review"], 0) + row["n"]
    verdicts = index.ask(f"SELECT image_id, reviewer, verdict FROM reviews WHERE {own}", values)
    disputed = index.ask(
        f"SELECT {COLUMNS} FROM images WHERE ({held}) AND image_id IN (SELECT image_id FROM"
        f" reviewed WHERE review = 'disputed') ORDER BY {_ORDER}, place LIMIT {DISPUTED}",
        values,
    )
    return Summary(
        reviewers=reviewers,
        images=images,
        beside_gates=[(row["gate_status"], row["review"], row["n"]) for row in beside],
        pairs=agreements((r["image_id"], r["reviewer"], r["verdict"]) for r in verdicts),
        disputed=[row | {"verdicts": _of_image(index, row["image_id"])} for row in disputed],
    )


def _of_image(index: Index, image_id: str) -> list[tuple[str, str, str]]:
    rows = index.ask(
        "SELECT reviewer, verdict, coalesce(reason, '') AS reason FROM reviews WHERE image_id = ?"
        " ORDER BY verdict, reviewer",
        [image_id],
    )
    return [(row["reviewer"], row["verdict"], row["reason"]) for row in rows]
