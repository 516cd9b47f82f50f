"""A catalog as a library user sees it: one consistent, read-only view of its tables."""

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from catalog.boundary import check_rows
from catalog.files import Files, listed_files, no_files
from catalog.place import Where, place_of
from catalog.schema import ACCEPTED, TABLES
from catalog.store import (
    commit_time,
    ensure_table,
    filesystem,
    open_table,
    parse_moment,
    reading,
    storage_errors,
    version_at,
)
from factory.errors import CatalogError

if TYPE_CHECKING:  # it imports pandas, half a second of CPU, which a wrong URI need not wait for
    import pyarrow.dataset as ds


class Catalog:
    """The tables of a catalog (catalog/schema.py) at one moment.

    A view does not move; open another `Catalog` to see what came later.

    Args:
        place: folder or object store URI (`s3://bucket/wbc`).
        version: a version of `samples`; the others as they were while it was the newest.
        as_of: a moment (datetime or ISO 8601 text, UTC by default) for all tables.
        reviews: a version of `reviews`, as releases pin one; default: as the other tables.

    Raises:
        CatalogError: no catalog there, no such version, or of a newer factory.

    Example:
        >>> catalog = Catalog("wbc-catalog")
        >>> catalog.samples().to_table(columns=["image_id", "class_name"])
    """

    def __init__(
        self,
        place: Where,
        *,
        version: int | None = None,
        as_of: datetime | str | None = None,
        reviews: int | None = None,
    ) -> None:
        if version is not None and as_of is not None:
            raise CatalogError(
                f"version {version} and as_of {as_of} were both given", remedy="Give one of them"
            )
        self.place = place_of(place)
        self._version = version
        self.reviews = reviews
        self._as_of = None if as_of is None else parse_moment(as_of)
        self._newest = {name: self._find(name) for name in TABLES}
        if all(table is None for table in self._newest.values()):
            open_table(place, "samples")  # raises, with the remedy

    @classmethod
    def create(cls, place: Where) -> "Catalog":
        """Create those of the tables that are missing and return the catalog.

        Raises:
            CatalogError: the place cannot be written.
        """
        for name in TABLES:
            ensure_table(place, name)
        return cls(place)

    def __repr__(self) -> str:
        return f"Catalog({self.uri!r}, version={self.version})"

    @property
    def uri(self) -> str:
        """The place as text."""
        return self.place.uri

    @property
    def version(self) -> int | None:
        """The version of `samples` in this view; None before its first version."""
        return self.version_of("samples")

    def version_of(self, name: str) -> int | None:
        """The version of a table in this view; None before its first version."""
        snapshot = self._snapshots[name]
        return None if snapshot is None else snapshot.version()

    @property
    def named(self) -> str:
        """The view as errors call it: its version, if it has one, and its place."""
        version = (
            "the still empty catalog" if self.version is None else f"version {self.version} of"
        )
        return f"{version} {self.uri!r}"

    def samples(self) -> "ds.Dataset":
        """Return the samples as an Arrow dataset.

        Filters on run_id, class, guidance, steps, scheduler, gate_status and recipe_digest skip
        whole files by their statistics; `sql` does so for every column of `schema.STATISTICS`.
        """
        return self.dataset("samples")

    def dataset(self, name: str) -> "ds.Dataset":
        """Return a table by name; 'runs' with every event."""
        return self.files(name).dataset()

    def files(self, name: str) -> Files:
        """Return the files of a table with their statistics."""
        return self._files[name]

    def history(self, limit: int | None = None) -> list[dict[str, object]]:
        """Return the commits of `samples`, newest first: version, time, operation, what was added.

        Commits of the sink also say run_id, batches and num_rows.
        """
        snapshot = self._snapshots["samples"]
        newest = self._newest["samples"]
        if snapshot is None or newest is None:
            return []
        later = newest.version() - snapshot.version()  # history of an older snapshot misnumbers
        with storage_errors(self.place):
            commits = newest.history(None if limit is None else limit + later)[later:]
        return [_told(commit) for commit in commits]

    def rows(self, image_ids: Sequence[str], *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of `image_ids`, in this order.

        Looks for the ids first and then reads only the files that hold them. An id that two runs
        published gives the row of the earlier run.

        Raises:
            CatalogError: an id that is not in this view, an unknown column, or a row that is none
                of a factory.
        """
        wanted = list(dict.fromkeys(image_ids))
        names = list(columns or TABLES["samples"].names)
        unknown = sorted(set(names) - set(TABLES["samples"].names))
        if unknown:
            raise CatalogError(
                f"samples have no columns {unknown}", remedy=f"Choose of {TABLES['samples'].names}"
            )
        match = pc.field("image_id").isin(pa.array(wanted, pa.string()))
        keys = ["image_id", "created_at", "run_id"]
        with reading(self.uri, self.files("samples")):
            files = self.files("samples")
            part = files.dataset(files.holding("image_id", wanted))
            asked = list(dict.fromkeys([*names, *keys, "__filename"]))
            found = part.to_table(columns=asked, filter=match)
        found = check_rows(found, self.named)
        found = found.take(pc.sort_indices(found, [(k, "ascending") for k in keys[1:]]))
        place: dict[str, int] = {}
        for row, image_id in enumerate(found["image_id"].to_pylist()):
            place.setdefault(image_id, row)
        missing = [image_id for image_id in wanted if image_id not in place]
        if missing:
            raise CatalogError(
                f"image {missing[0]!r} is not in {self.named}"
                + (f" (nor are {len(missing) - 1} others)" if missing[1:] else ""),
                remedy='List ids with `factory catalog sql "SELECT image_id FROM samples"`',
            )
        return found.take(pa.array([place[i] for i in image_ids], pa.int64())).select(names)

    def run(self, run_id: str) -> dict[str, object]:
        """Return the latest event of a run as a dict of the columns of `RUNS`.

        Raises:
            CatalogError: no such run.
        """
        for row in self.runs_latest().to_pylist():
            if row["run_id"] == run_id:
                return dict(row)
        raise CatalogError(
            f"there is no run {run_id!r} in {self.uri!r}",
            remedy='List them with `factory catalog sql "SELECT run_id, status FROM runs"`',
        )

    def runs_latest(self) -> pa.Table:
        """Return the latest event per run, in order of start. SQL calls this `runs`."""
        runs = self._latest("runs", "run_id")
        return runs.sort_by([("started_at", "ascending"), ("run_id", "ascending")])

    def releases_latest(self) -> pa.Table:
        """Return the latest event per release, in order of creation. SQL calls this `releases`."""
        releases = self._latest("releases", "name")
        return releases.sort_by([("created_at", "ascending"), ("name", "ascending")])

    def maps_latest(self) -> pa.Table:
        """Return the latest map per feature space. SQL calls this `maps`."""
        return self._latest("maps", "space_digest")

    def release_files(self) -> pa.Table:
        """Return the files of every release; what a killed creation left behind is not shown."""
        files, made = self.table("release_files"), self.table("releases")
        columns = files.column_names
        keys = ["name", "manifest_digest"]
        known = files.join(made.group_by(keys).aggregate([]), keys=keys, join_type="left semi")
        return known.select(columns).sort_by([("name", "ascending"), ("path", "ascending")])

    def models(self) -> pa.Table:
        """Return the registered models."""
        return self.table("models")

    def table(self, name: str) -> pa.Table:
        """Return a small table as a whole; 'runs' with every event.

        Raises:
            CatalogError: a file is gone or damaged, or its texts are none.
        """
        files = self.files(name)
        with reading(self.uri, files):
            rows = files.dataset().to_table()
            rows.validate(full=True)
        return rows

    def published_recipes(
        self, digests: Iterable[str], *, besides: str | None = None
    ) -> Mapping[str, str]:
        """Return {recipe_digest: run_id} for those of `digests` that have published rows.

        Of several runs with one recipe the earliest is named. The files of the run `besides` are
        not opened: a long run that goes on asks about all others.
        """
        wanted = sorted(set(digests))
        match = pc.field("recipe_digest").isin(pa.array(wanted, pa.string()))
        files = self.files("samples")
        others = files.may("run_id", "!=", besides)
        part = files.dataset(files.may_be("recipe_digest", wanted) & others)
        columns = ["recipe_digest", "created_at", "run_id"]
        first: dict[str, tuple[datetime, str]] = {}
        with reading(self.uri, files):
            for batch in part.to_batches(columns=columns, filter=match):
                seen = pa.table(batch).group_by(columns).aggregate([])
                for row in seen.to_pylist():
                    candidate = (row["created_at"], row["run_id"])
                    known = first.setdefault(row["recipe_digest"], candidate)
                    first[row["recipe_digest"]] = min(known, candidate)
        return {recipe: run_id for recipe, (_, run_id) in sorted(first.items())}

    def sample_ids(
        self,
        *,
        fraction: float | None = None,
        count: int | None = None,
        seed: int = 0,
        accepted_only: bool = True,
    ) -> list[str]:
        """Return a random subset of image ids: a `fraction` (rounded up) or a `count` of them.

        Which ids depends on the set of ids and on `seed` alone; memory holds the subset only.

        Raises:
            CatalogError: not exactly one of fraction in (0, 1] and count >= 0, or too few images.
        """
        if (fraction is None) == (count is None) or not (fraction is None or 0 < fraction <= 1):
            raise CatalogError(
                f"fraction {fraction} and count {count} name no subset",
                remedy="Give a fraction in (0, 1] or a count",
            )
        match = pc.field("gate_status") == ACCEPTED if accepted_only else None
        files = self.files("samples")
        samples = files.dataset()
        with reading(self.uri, files):
            held = samples.count_rows(filter=match)
        size = math.ceil(round(fraction * held, 9)) if fraction is not None else count or 0
        if not 0 <= size <= held:
            raise CatalogError(
                f"{size} images asked, {self.uri!r} holds {held}", remedy="Ask for fewer"
            )
        batches = samples.to_batches(columns=["image_id"], filter=match)
        ids = (i for batch in batches for i in batch.column(0).to_pylist())
        with reading(self.uri, files):
            return heapq.nsmallest(size, ids, key=lambda image_id: _draw(seed, image_id))

    def _latest(self, name: str, key: str) -> pa.Table:
        """Return the rows of table `name` that have the last event of their `key`."""
        events = self.table(name)
        events = events.sort_by([(key, "ascending"), ("event", "descending")])
        ids = events[key].to_pylist()
        return events.take(
            pa.array([i for i in range(len(ids)) if i == 0 or ids[i - 1] != ids[i]], pa.int64())
        )

    @cached_property
    def _snapshots(self) -> dict[str, DeltaTable | None]:
        """One snapshot per table; None where a table has none at this view's moment."""
        pinned = {"samples": self._version, "reviews": self.reviews}
        found: dict[str, DeltaTable | None] = {
            name: self._open(name, at) for name, at in pinned.items() if at is not None
        }
        samples = found.get("samples")
        until = self._as_of if samples is None else self._end_of(samples)
        return found | {name: self._at(name, until) for name in TABLES if name not in found}

    @cached_property
    def _files(self) -> dict[str, Files]:
        return {name: self._list(name) for name in TABLES}

    def _list(self, name: str) -> Files:
        snapshot = self._snapshots[name]
        listed = no_files() if snapshot is None else listed_files(snapshot)
        known = dict(zip(*(listed[key].to_pylist() for key in ("path", "size_bytes")), strict=True))
        store_files = filesystem(self.place, name, sizes=known)
        return Files(listed=listed, schema=TABLES[name], filesystem=store_files)

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        return open_table(self.place, name, version=version)

    def _find(self, name: str) -> DeltaTable | None:
        try:
            return self._open(name)
        except CatalogError as error:
            if isinstance(error.__cause__, TableNotFoundError):
                return None
            raise

    def _at(self, name: str, moment: datetime | None) -> DeltaTable | None:
        newest = self._newest[name]
        if newest is None or moment is None:
            return newest
        version = version_at(newest, self.place, name, moment)
        return None if version is None else self._open(name, version)

    def _end_of(self, samples: DeltaTable) -> datetime | None:
        """Return the last moment at which this version was the newest, None if it still is."""
        newest = self._newest["samples"]
        if newest is None or samples.version() == newest.version():
            return None
        following = commit_time(self.place, "samples", samples.version() + 1)
        return following - timedelta(milliseconds=1)


_LATEST_MS = 250_000_000_000_000
"""Milliseconds since 1970 up to which a time is one: in the year 9892."""


def _draw(seed: int, image_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{image_id}".encode(), digest_size=16).digest()


def _told(commit: Mapping[str, object]) -> dict[str, object]:
    """Return a commit's note, which anybody may have written: of each key one type, or nothing."""
    when = commit.get("timestamp")
    written = when if isinstance(when, int) and abs(when) < _LATEST_MS else 0
    kept = {key: str(commit[key]) for key in ("run_id", "batches") if key in commit}
    rows = str(commit.get("num_rows", ""))
    return {
        "version": commit["version"],
        "time": datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=written),
        "operation": str(commit.get("factory_operation") or commit.get("operation", "")),
        **kept,
        **({"num_rows": int(rows)} if rows.isdecimal() and len(rows) < 19 else {}),
    }
