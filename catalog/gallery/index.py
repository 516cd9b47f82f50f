"""The light columns of all samples in memory: what a gallery filters, sorts, counts and pages by.

A data file is never changed, so each is read once; a version of the table is a set of files.
Reading them for every page instead takes seconds at a million rows (4,000 Parquet files), however
few rows the page has. An image costs about 150 bytes here; no pixel is kept.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.boundary import check_rows
from catalog.bounded import BoundedSql
from catalog.files import Files
from catalog.gallery.points import Points
from catalog.place import Where, place_of
from catalog.progress import FILES_AT_A_TIME
from catalog.reviews import fresh_events, views
from catalog.schema import SAMPLES
from catalog.store import reading
from catalog.table import Catalog
from catalog.tombstones import forgotten
from factory.gate.registry import all_scores

LIGHT = (
    *("run_id", "image_id", "class_name", "guidance_scale", "gate_status", "method", "model_id"),
    *("recipe_digest", "recipe_index", "created_at", "batch_index", "batch_slot", "gate_reasons"),
    *(score.column for score in all_scores()),
)
LOOK_AGAIN_SECONDS = 3.0
"""The newest version is looked for at most so often."""
REST = 10
"""... and after a look that took long, only when so many times its duration has passed."""
LISTEN_AGAIN_SECONDS = 1.0
"""What people said is looked for at most so often, but for whoever said something here."""
KEPT = 8
"""Older versions, releases and conditions of which the lists are kept."""

_GATES = (
    "CASE WHEN gate_status = 'accepted' THEN []::VARCHAR[] ELSE list_distinct(list_transform("
    "gate_reasons, lambda reason: split_part(reason, ':', 1))) END AS gates"
)
_EMPTY = f"""
ATTACH ':memory:' AS held (COMPRESS);
SET enable_external_access = false;
USE held;
CREATE TABLE images AS SELECT * EXCLUDE (gate_reasons), 0::INTEGER AS file, 0::BIGINT AS place,
{_GATES} FROM light LIMIT 0;
CREATE TABLE shown (view VARCHAR, file INTEGER);
CREATE TABLE members (name VARCHAR, image_id VARCHAR, run_id VARCHAR);
CREATE TABLE doubles (image_id VARCHAR);
CREATE TABLE hidden (image_id VARCHAR);
CREATE TABLE points (image_id VARCHAR, row INTEGER, x FLOAT, y FLOAT);
CREATE TABLE review_events (image_id VARCHAR, reviewer VARCHAR, event INTEGER, verdict VARCHAR,
reason VARCHAR, reviewed_at TIMESTAMP, is_blind BOOLEAN);
"""
_EVENT = ("image_id", "reviewer", "event", "verdict", "reason", "reviewed_at", "is_blind")
_DOUBLES = """CREATE OR REPLACE TABLE doubles AS
SELECT image_id FROM images GROUP BY image_id HAVING count(*) > 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One version of the samples in the index. `name` is its key in the table `shown`."""

    catalog: Catalog
    name: str
    whole: bool
    """All files of the index belong to it."""
    doubled: bool
    """Some image was published by two runs."""
    hides: bool
    """Some image is not to be shown any more."""
    paths: tuple[str, ...] = field(repr=False)
    """Of all files of the index, by number."""
    facets: dict[str, list[str]] = field(repr=False)
    """Column -> its values, for the choices of a form."""
    ends: dict[str, tuple[float, float]] = field(repr=False)
    """Guidance and scores that some image has: column -> least and greatest."""


class Index:
    """The index of one catalog, which follows it as it grows. Safe to use from many threads.

    Args:
        place: of the catalog.
        space: digest of the features to show; None: of those that most images have.

    Raises:
        CatalogError: no catalog there, or a data file is gone.
    """

    def __init__(self, place: Where, space: str | None = None) -> None:
        import duckdb

        self.place = place_of(place)
        self._db = duckdb.connect(":memory:")
        light = pa.schema([SAMPLES.field(name) for name in LIGHT])
        self._db.register("light", light.empty_table())
        self._db.execute(";\n".join([_EMPTY, *views()]))
        self._paths: list[str] = []
        self._known: dict[str, int] = {}
        self._held: dict[str, View] = {}
        self._members: dict[str, int] = {}
        self._again = 0.0
        self._said: frozenset[str] = frozenset()
        self._heard = 0
        self._listen_again = 0.0
        self._lock = threading.RLock()
        self._older = threading.Lock()
        self.typed = BoundedSql(self.place)
        """Asks what visitors type."""
        self.stored = BoundedSql(self.place)
        """Asks the conditions of releases, which others may have written into the catalog."""
        self.unanswered: set[str] = set()
        """Releases whose condition gave no answer in time."""
        self.newest()
        self.points = Points(self, space)
        """Where the images lie on the map."""

    def close(self) -> None:
        """Ask nothing more."""
        self.typed.close()
        self.stored.close()

    def ask(self, text: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Run one of the gallery's own queries; return its rows."""
        with self._db.cursor() as cursor:
            cursor.execute("USE held")
            found = cursor.execute(text, list(values))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def table(self, text: str, values: Sequence[object] = ()) -> pa.Table:
        """Run one of the gallery's own queries; return its rows as columns, for many of them."""
        with self._db.cursor() as cursor:
            cursor.execute("USE held")
            return cursor.sql(text, params=list(values)).to_arrow_table()

    def take(self, text: str, fresh: pa.Table) -> None:
        """Run one of the gallery's own statements, in which `fresh` is a table."""
        with self._lock:
            self._db.register("fresh", fresh)
            self._db.execute(text)
            self._db.unregister("fresh")

    def newest(self) -> View:
        """Return the newest version, as of a few seconds ago.

        Raises:
            CatalogError: it cannot be read.
        """
        with self._lock:
            held = self._held.get("newest")
            if held is not None and time.monotonic() < self._again:
                return held
            begun = time.monotonic()
            catalog = Catalog(self.place)
            if held is None or catalog.version != held.catalog.version:
                held = self._shown("newest", catalog)
            else:  # runs, models, studies and tombstones may have come
                held = replace(held, catalog=catalog, hides=self._hide())
            self._held["newest"] = held
            spent = time.monotonic() - begun
            self._again = time.monotonic() + max(LOOK_AGAIN_SECONDS, REST * spent)
            return held

    def listen(self, *, at_once: bool = False) -> int:
        """Read what people said since the last look; return how many verdicts there are.

        Raises:
            CatalogError: a file is gone, or holds no verdicts.
        """
        with self._lock:
            begun = time.monotonic()
            if at_once or begun >= self._listen_again:
                rows, paths = fresh_events(self.place, self._said)
                if not self._said <= paths:  # they were joined
                    self._db.execute("DELETE FROM review_events")
                    rows, paths = fresh_events(self.place)
                if len(rows):
                    self.take("INSERT INTO review_events FROM fresh", _without_zone(rows))
                self._said = paths
                self._heard = int(self.ask("SELECT count(*) AS n FROM review_events")[0]["n"])
                now = time.monotonic()
                self._listen_again = now + max(LISTEN_AGAIN_SECONDS, REST * (now - begun))
            return self._heard

    def at(self, version: int | None) -> View:
        """Return a version of the samples; None means the newest.

        Raises:
            CatalogError: no such version.
        """
        newest = self.newest()
        if version is None or version == newest.catalog.version:
            return newest
        name = str(version)
        with self._older:  # whoever looks at the newest does not wait for an old one to be opened
            with self._lock:
                if name in self._held:
                    return self._held[name]
            catalog = Catalog(self.place, version=version)
            catalog.files("samples")
            with self._lock:
                view = self._held[name] = self._shown(name, catalog)
                for old in list(self._held)[1:-KEPT]:
                    del self._held[old]
                    self._db.execute("DELETE FROM shown WHERE view = ?", [old])
            return view

    def remember(self, name: str, keys: pa.Table, heard: int = 0) -> None:
        """Keep a set of images (image_id, run_id) as `name` in the table `members`.

        `heard`: the verdicts that it was chosen by; a set of fewer makes room for it.
        """
        with self._lock:
            if self.remembers(name, heard):
                return
            self._db.register("fresh", keys)
            self._db.begin()  # who asks meanwhile sees the old set or the new one
            try:
                self._db.execute("DELETE FROM members WHERE name = ?", [name])
                self._db.execute(
                    "INSERT INTO members SELECT ?, image_id, run_id FROM fresh", [name]
                )
                self._db.commit()
            except BaseException:
                self._db.rollback()
                raise
            self._db.unregister("fresh")
            self._members.pop(name, None)
            self._members[name] = heard
            for old in list(self._members)[:-KEPT]:
                self._db.execute("DELETE FROM members WHERE name = ?", [old])
                del self._members[old]

    def remembers(self, name: str, heard: int = 0) -> bool:
        """Whether the table `members` has `name`, chosen by as many verdicts."""
        with self._lock:
            return self._members.get(name, -1) >= heard

    def _shown(self, name: str, catalog: Catalog) -> View:
        """Read the files that are new, and note which ones the version has."""
        files = catalog.files("samples")
        paths = files.listed["path"].to_pylist()
        self._load(catalog, files)
        numbers = sorted(self._known[path] for path in paths)
        whole = len(numbers) == len(self._paths)
        self._db.execute("DELETE FROM shown WHERE view = ?", [name])
        if not whole:
            table = pa.table({"file": pa.array(numbers, pa.int32())})
            self._db.register("fresh", table)
            self._db.execute("INSERT INTO shown SELECT ?, file FROM fresh", [name])
            self._db.unregister("fresh")
        return View(
            catalog=catalog,
            name=name,
            whole=whole,
            doubled=bool(self.ask("SELECT count(*) AS n FROM doubles")[0]["n"]),
            hides=self._hide(),
            paths=tuple(self._paths),
            facets=self._facets(),
            ends=self._ends(),
        )

    def _load(self, catalog: Catalog, files: Files) -> None:
        """Read the files that are new, runs in order of their start."""
        keys = [
            (k, "ascending") for k in ("min.created_at", "path") if k in files.listed.schema.names
        ]
        order = pc.sort_indices(files.listed, sort_keys=keys).to_numpy()
        paths = files.listed["path"].to_numpy(zero_copy_only=False)
        fresh = np.array([n for n in order if paths[n] not in self._known], np.int64)
        for start in range(0, len(fresh), FILES_AT_A_TIME):
            chosen = fresh[start : start + FILES_AT_A_TIME]
            fresh_files = replace(files, listed=files.listed.take(chosen))
            part = fresh_files.dataset()
            with reading(catalog.uri, fresh_files):
                rows = part.to_table(columns=list(LIGHT)).combine_chunks()
                check_rows(rows, catalog.named)
                counts = [fragment.count_rows() for fragment in part.get_fragments()]
            self._insert(rows, counts)
            self._known |= {str(paths[n]): len(self._paths) + i for i, n in enumerate(chosen)}
            self._paths += map(str, paths[chosen])
        if len(fresh):
            self._db.execute(_DOUBLES)
            for view in [v for v in self._held.values() if v.whole]:  # no longer all files
                self._held.pop(view.name)

    def _insert(self, rows: pa.Table, counts: Sequence[int]) -> None:
        """Insert the rows of the next files, of which each has so many of `counts`."""
        first = self.ask("SELECT coalesce(max(place) + 1, 0) AS n FROM images")[0]["n"]
        numbers = len(self._paths) + np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        rows = rows.append_column("file", pa.array(numbers.astype(np.int32)))
        rows = rows.append_column("place", pa.array(np.arange(first, first + len(rows))))
        self._db.register("piece", rows)
        floats = ", ".join(
            f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
            for name in LIGHT
            if name.endswith("_score")
        )
        self._db.execute(
            f"INSERT INTO images SELECT * EXCLUDE (gate_reasons) REPLACE ({floats}), {_GATES}"
            " FROM piece"
        )
        self._db.unregister("piece")

    def _hide(self) -> bool:
        """Learn which images are forgotten; return whether there are any."""
        marks = forgotten(self.place)
        ids = sorted(marks.images | marks.models)
        marked = pa.table({"id": pa.array(ids, pa.string())})
        self._db.register("fresh", marked)
        self._db.execute(
            "CREATE OR REPLACE TABLE hidden AS SELECT DISTINCT image_id FROM images"
            " WHERE image_id IN (FROM fresh) OR model_id IN (FROM fresh)"
        )
        self._db.unregister("fresh")
        return bool(ids)

    def _ends(self) -> dict[str, tuple[float, float]]:
        columns = [name for name in LIGHT if name == "guidance_scale" or name.endswith("_score")]
        told = ", ".join(
            f"{end}({c}) FILTER (isfinite({c})) AS {end}_{c}"
            for c in columns
            for end in ("min", "max")
        )
        (row,) = self.ask(f"SELECT {told} FROM images")
        return {
            c: (float(row[f"min_{c}"]), float(row[f"max_{c}"]))
            for c in columns
            if row[f"min_{c}"] is not None
        }

    def _facets(self) -> dict[str, list[str]]:
        queries = {
            name: f"SELECT DISTINCT {name} AS v FROM images ORDER BY 1 LIMIT 500"
            for name in ("class_name", "run_id", "method", "model_id")
        }
        queries["gate"] = "SELECT DISTINCT unnest(gates) AS v FROM images ORDER BY 1 LIMIT 500"
        return {key: [row["v"] for row in self.ask(text)] for key, text in queries.items()}


def _without_zone(rows: pa.Table) -> pa.Table:
    """Return the columns of verdicts that the index holds; times in UTC, as DuckDB gives them."""
    kept = rows.select(list(_EVENT))
    plain = kept["reviewed_at"].cast(pa.timestamp("us"))
    return kept.set_column(_EVENT.index("reviewed_at"), "reviewed_at", plain)
