"""Where the images lie on the map and who is near whom: their features, beside the index.

Read at the first question, and then as more come: of an image 256 bytes that say where it lies
among the others, and its place on the map in the table `points` of the index, about 30 bytes.
"""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catalog.features import Map, maps_of, vectors_of
from catalog.files import Files
from catalog.table import Catalog
from factory.measure.near import Codes

if TYPE_CHECKING:
    from catalog.gallery.filters import Filters
    from catalog.gallery.index import Index, View

MORE = 8
"""Times as many neighbours as are shown are looked at first: some may not be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """An image near another: its row of the index, and how far it lies in the feature space."""

    row: Mapping[str, Any]
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    found: Map
    codes: Codes
    paths: frozenset[str] = field(repr=False)


class Points:
    """The points of one space of a catalog. Safe to use from many threads.

    Args:
        index: of the catalog.
        space: digest of the space; None: the one that most images have.
    """

    def __init__(self, index: "Index", space: str | None = None) -> None:
        self.epoch = secrets.token_hex(4)
        """Of this start: the numbers of images in addresses mean nothing to another one."""
        self._index = index
        self._space = space
        self._held: _Held | None = None
        self._looked: Catalog | None = None
        self._lock = threading.Lock()

    def map(self) -> Map | None:
        """Return the map as of some seconds ago, once its points are in the index; None: none.

        Raises:
            CatalogError: a file is gone, or holds what is no vector.
        """
        held = self._newest()
        return None if held is None else held.found

    def nearest(
        self, view: "View", filters: "Filters", image_id: str, count: int
    ) -> list[Near] | None:
        """Return the images nearest to one of those that `filters` leave; None: not known.

        Raises:
            CatalogError: see `map`.
        """
        held = self._newest()
        rows = [] if held is None else self._rows_of(image_id)
        if held is None or not rows:
            return None
        place, asked = held.codes.placed(rows[0]), 0
        near: list[Near] = []
        while len(near) < count and asked < len(held.codes):
            asked = max(asked * MORE, (count + 1) * MORE)
            found, distances = held.codes.nearest(place, asked)
            apart = dict(zip(found.tolist(), distances.tolist(), strict=True))
            near = self._shown(view, filters, image_id, apart)
        return near[:count]

    def _rows_of(self, image_id: str) -> list[int]:
        text = "SELECT row FROM points WHERE image_id = ?"
        return [row["row"] for row in self._index.ask(text, [image_id])]

    def _shown(
        self, view: "View", filters: "Filters", besides: str, apart: Mapping[int, float]
    ) -> list[Near]:
        from catalog.gallery.listing import COLUMNS

        condition, values = filters.condition(view)
        rows = self._index.ask(
            f"SELECT {COLUMNS}, row FROM images JOIN points USING (image_id) WHERE ({condition})"
            " AND row IN (SELECT unnest(?)) AND image_id <> ?",
            [*values, list(apart), besides],
        )
        rows.sort(key=lambda row: (apart[row["row"]], row["row"]))
        return [Near(row=row, distance=apart[row["row"]]) for row in rows]

    def _newest(self) -> "_Held | None":
        """Return what is held, after reading what came since."""
        catalog = self._index.newest().catalog
        with self._lock:
            if catalog is self._looked:
                return self._held
            known = maps_of(catalog)
            first = next(iter(known), None)
            found = known.get(self._space or first or "")
            if found is None:
                self._held, self._looked = None, catalog
                return None
            if self._held is not None and self._held.found.event != found.event:
                self._held = None
            if self._held is not None and self._held.found.digest != found.digest:
                self._held = None
            files = catalog.files("features")
            paths = frozenset(files.listed["path"].to_pylist())
            if self._held is None or paths - self._held.paths:
                self._held = self._read(catalog, files, found, paths)
            self._looked = catalog
            return self._held

    def _read(self, catalog: Catalog, files: Files, found: Map, paths: frozenset[str]) -> _Held:
        """Read the files that are not held yet."""
        held = self._held
        if held is None:
            nothing = np.zeros((0, len(found.axes.spread)), np.float32)
            codes, known = Codes.of(nothing, found.axes.spread), frozenset[str]()
            self._index.take("DELETE FROM points", _rows([], 0, nothing))
        else:
            codes, known = held.codes, held.paths
        fresh = np.array([path not in known for path in files.listed["path"].to_pylist()], bool)
        part = Files(
            listed=files.listed.filter(pa.array(fresh)),
            schema=files.schema,
            filesystem=files.filesystem,
        )
        pieces, count = [codes], len(codes)
        for ids, vectors in vectors_of(catalog, found.digest, part, width=len(found.axes.mean)):
            placed = found.axes(vectors)
            pieces.append(Codes.of(placed, found.axes.spread))
            self._index.take("INSERT INTO points FROM fresh", _rows(ids, count, placed))
            count += len(placed)
        self._index.take(_ONCE, _rows([], 0, placed=np.zeros((0, 2), np.float32)))
        return _Held(found=found, codes=Codes.joined(pieces), paths=paths)


_ONCE = "DELETE FROM points WHERE row NOT IN (SELECT min(row) FROM points GROUP BY image_id)"
"""The sink adds an image once; others may write into a catalog too."""


def _rows(ids: Sequence[str] | pa.Array, first: int, placed: Any) -> pa.Table:
    """Return rows of the table `points`, numbered from `first`."""
    return pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "row": pa.array(np.arange(first, first + len(placed), dtype=np.int32)),
            "x": pa.array(np.ascontiguousarray(placed[:, 0])),
            "y": pa.array(np.ascontiguousarray(placed[:, 1])),
        }
    )
