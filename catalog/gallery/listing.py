"""What an address asks for: a view of the catalog, and a page of its images in order."""

from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from catalog.gallery.filters import (
    SORTS,
    BadAddress,
    Filters,
    NotHere,
    condition_name,
    release_name,
)
from catalog.gallery.index import Index, View
from catalog.query import quoted
from catalog.releases import Release, list_releases, open_release
from catalog.reviews import names_reviews
from catalog.schema import SAMPLES
from catalog.table import Catalog
from factory.errors import CatalogError

CONDITION_SECONDS = 10.0
"""A condition in SQL may take so long."""


def releases_of(index: Index) -> list[Release]:
    """Return the releases of a catalog, the latest first."""
    found = list_releases(index.place)
    return sorted(found, key=lambda release: (release.created_at, release.name), reverse=True)


def view_of(index: Index, filters: Filters) -> View:
    """Return the view that the filters are about, after the index has learnt their selections.

    Raises:
        BadAddress: no such version or release, or a condition that is none or takes too long.
    """
    try:
        pinned = _pinned(index, filters.release) if filters.release else filters.version
        if filters.version not in (None, pinned):
            raise BadAddress(
                f"release {filters.release!r} pins version {pinned}, not {filters.version}",
                remedy="Leave the version out",
            )
        view = index.at(pinned)
        if filters.part and index.points.map() is None:
            raise BadAddress(
                "there is no map yet",
                remedy=f"Make one with `factory catalog embed --catalog {index.place.uri}`",
            )
        if filters.review:
            index.listen()
        if filters.where:
            _learn(index, view, condition_name(view.catalog.version, filters.where), filters.where)
    except CatalogError as error:
        raise BadAddress(error.what, remedy=error.remedy) from error
    return view


def holding(index: Index, row: dict[str, Any]) -> list[Release]:
    """Return the releases that hold the image of an index's row."""
    return [release for release in releases_of(index) if _holds(index, release, row)]


def _learn(index: Index, view: View, name: str, where: str) -> None:
    heard = index.listen() if names_reviews(where) else 0  # then it may be others by now
    if index.remembers(name, heard):
        return
    version = view.catalog.version
    for text in (  # by itself too: 'a) OR (b' is no condition
        f"SELECT 1 FROM samples WHERE {where}\nLIMIT 0",
        f"SELECT image_id, run_id FROM samples WHERE ({where}\n)",
    ):
        found = index.typed.ask(text, seconds=CONDITION_SECONDS, version=version)
    index.remember(name, found, heard)


def _pinned(index: Index, name: str) -> int:
    """Return the version that a release pins, once the index knows the release's images."""
    found = next((release for release in releases_of(index) if release.name == name), None)
    if found is None:
        raise BadAddress(f"there is no release {name!r}", remedy="Choose one under Releases")
    key = release_name(name)
    if not index.remembers(key):
        # a retracted one too: to look is not to use
        held = open_release(index.place, name, allow_retracted=True, ask=partial(_ask, index))
        parts = held.batches(["image_id", "run_id"])
        schema = pa.schema([SAMPLES.field("image_id"), SAMPLES.field("run_id")])
        index.remember(key, pa.concat_tables([schema.empty_table(), *parts]))
    return found.version


def _ask(index: Index, catalog: Catalog, text: str) -> pa.Table:
    return index.stored.ask(
        text, seconds=CONDITION_SECONDS, version=catalog.version, reviews=catalog.reviews
    )


def _holds(index: Index, release: Release, row: dict[str, Any]) -> bool:
    """Whether a release holds an image: asked of the one file that may have it."""
    text = (
        f"SELECT count(*) AS n FROM samples WHERE run_id = {quoted(row['run_id'])}"
        f" AND batch_index = {int(row['batch_index'])} AND image_id = {quoted(row['image_id'])}"
        f" AND ({release.where}\n)"
    )
    if release.name in index.unanswered:
        return False
    try:
        found = index.stored.ask(
            text,
            seconds=CONDITION_SECONDS,
            version=release.version,
            reviews=release.review_version,
        )
    except CatalogError:
        index.unanswered.add(release.name)  # once is enough: every image's page would wait
        return False
    return bool(found["n"][0].as_py())


PAGE = 200
"""Images of a page."""

COLUMNS = (
    "image_id, run_id, class_name, guidance_scale, gate_status, gates, recipe_digest,"
    " recipe_index, file, place"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of the index. `before` and `after` are keys of the neighbouring pages, or ''."""

    rows: list[dict[str, Any]]
    total: int
    first: int
    """Number of its first image among all, from 1."""
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """All images of a view that pass the filters, in their order."""

    index: Index
    column: str
    down: bool
    held: str
    values: list[object]

    def count(self, reach: str = "true", key: tuple[object, ...] = ()) -> int:
        text = f"SELECT count(*) AS n FROM images WHERE ({self.held}) AND {reach}"
        return int(self.index.ask(text, [*self.values, *key])[0]["n"])

    def rows(
        self, reach: str, key: tuple[object, ...], *, back: bool, size: int
    ) -> list[dict[str, Any]]:
        """Return the nearest `size` rows in the direction, nearest first."""
        way = "DESC" if self.down != back else "ASC"
        return self.index.ask(
            f"SELECT {COLUMNS} FROM images WHERE ({self.held}) AND {reach}"
            f" ORDER BY {self.column} {way}, place {way} LIMIT {size}",
            [*self.values, *key],
        )

    def beyond(self, of: str, *, back: bool) -> tuple[str, tuple[object, ...]]:
        """Return the condition of lying beyond the image `of`, and its values."""
        if not of:
            return "true", ()
        row = located(self.index, of)
        sign = "<" if self.down != back else ">"
        value = row[self.column]
        if self.column == "place" or value is None:
            return f"place {sign} ?", (row["place"],)
        column = self.column
        return (
            f"({column} {sign}= ? AND ({column} {sign} ? OR place {sign} ?))",
            (value, value, row["place"]),
        )


def key_of(row: dict[str, Any]) -> str:
    """Return how an address names an image: 'RUN/IMAGE'; two runs may have published it."""
    return f"{row['run_id']}/{row['image_id']}"


def in_address(key: str) -> str:
    """Return a key as part of an address: an image's id is one step, whatever it holds."""
    run_id, _, image_id = key.partition("/")
    return f"{quote(run_id, safe='')}/{quote(image_id, safe='')}"


def page_of(
    index: Index, view: View, filters: Filters, *, after: str = "", before: str = "",
    size: int = PAGE,
) -> Page:  # fmt: skip
    """Return the page after, or before, an image; the first page without one.

    Found by the key of its first image (keyset), never by counting from the start: its cost depends
    on the length of a page and on one column of the index, not on how far in it lies.

    Raises:
        BadAddress: both were given.
        NotHere: no such image.
    """
    if after and before:
        raise BadAddress("'after' and 'before' are both given", remedy="Give one of them")
    order, back = _order(index, view, filters), bool(before)
    reach, key = order.beyond(after or before, back=back)
    rows = order.rows(reach, key, back=back, size=size + 1)
    total = order.count()
    beyond = order.count(reach, key) if key else total
    more, rows = len(rows) > size, rows[:size]
    if back:
        rows.reverse()
    first = (beyond - len(rows) if back else total - beyond) + 1
    earlier, later = (more, True) if back else (first > 1, more)
    return Page(
        rows=rows,
        total=total,
        first=first,
        before=key_of(rows[0]) if rows and earlier else "",
        after=key_of(rows[-1]) if rows and later else "",
    )


def around(index: Index, view: View, filters: Filters, key: str) -> tuple[str, str]:
    """Return the keys of the images before and after one in the order of `filters`, or ''."""
    order = _order(index, view, filters)
    found = [order.rows(*order.beyond(key, back=back), back=back, size=1) for back in (True, False)]
    before, after = (key_of(rows[0]) if rows else "" for rows in found)
    return before, after


def located(index: Index, key: str) -> dict[str, Any]:
    """Return the row of the index that `key` names: 'RUN/IMAGE', or IMAGE for its earliest run.

    Raises:
        NotHere: no such image.
    """
    run_id, slash, image_id = key.partition("/")  # an id of others may hold another one
    if not slash:
        run_id, image_id = "", key
    rows = index.ask(
        "SELECT * EXCLUDE (created_at) FROM images WHERE image_id = ?"
        " AND image_id NOT IN (FROM hidden)"
        + (" AND run_id = ?" if run_id else "")
        + " ORDER BY created_at, run_id LIMIT 1",
        [image_id, run_id] if run_id else [image_id],
    )
    if not rows:
        raise NotHere(
            f"image {key[:200]!r} is not in {index.place.uri!r}",
            remedy="Go back to the images and choose one",
        )
    return rows[0]


def _order(index: Index, view: View, filters: Filters) -> _Order:
    column, down = SORTS[filters.sort]
    held, values = filters.condition(view)
    if column != "place":
        held = f"({held}) AND {column} IS NOT NULL"
    return _Order(index=index, column=column, down=down, held=held, values=values)
