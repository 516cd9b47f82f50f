"""Upkeep: small files joined, runs taken out, and what nobody refers to removed after a while.

deltalake's own `optimize.compact` is not used: it cuts the bounds of `created_at` to milliseconds,
after which a query for the exact time of a row finds none (measured with 1.6.6), and packs PNGs
again. Here the files are written as the sink writes them, with the same statistics.

Exactly once holds on: files of one run are replaced under that run's application transaction, on
the snapshot they were read from. A sink that commits in between wins, and the compaction is decided
again; one that comes after it finds its snapshot refused, and sees the batches inside the new file.
Earlier versions keep the old files, and with them every release, until `vacuum` takes what no
version of a release needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from catalog.batch import file_statistics, parquet_bytes
from catalog.files import Files, listed_files
from catalog.place import Where
from catalog.progress import run_counts, run_states
from catalog.releases import list_releases
from catalog.schema import REMOVED, REVIEWS, SAMPLES, STATISTICS
from catalog.sink import now_ms, record_run
from catalog.store import filesystem, open_table, put, reading, sizes, storage_errors
from catalog.table import Catalog
from catalog.transaction import Addition, OnStep, Retry, Snapshots, commit_missing
from factory.digest import digest_bytes
from factory.errors import CatalogError

TARGET_BYTES = 32 << 20
"""Size up to which files are joined: about what is read to show one image of it."""
_ROW_GROUP = 256
SAFE = timedelta(days=1)
"""No run leaves a written batch unpublished for so long."""
MANY_VERDICTS = 64
"""Files of verdicts from which they are joined: each costs whoever reads them 0.6 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """Files of the newest version before and after, and the version after."""

    files_before: int
    files_after: int
    version: int


def optimize(
    place: Where,
    *,
    target_bytes: int = TARGET_BYTES,
    retry: Retry | None = None,
    on_step: OnStep | None = None,
) -> Compaction:
    """Join small neighbouring files of every run up to `target_bytes`, a commit per run.

    Neighbours are told by their batches. Files of verdicts, one each, are joined too. Safe beside
    running runs and reviewers; asked again it does nothing.

    Raises:
        CatalogError: no catalog there, a file is gone, or not writable.
    """
    open_table(place, "samples")  # never made here
    snapshots = Snapshots(place, "samples")
    snapshot = snapshots.newest()
    listed, version = listed_files(snapshot), snapshot.version()
    for run_id in sorted(set(_runs(listed))):

        def joined(snapshot: DeltaTable, run_id: str = run_id) -> Addition | None:
            return _joined(snapshot, place, run_id, target_bytes)

        version = commit_missing(snapshots, joined, retry=retry, on_step=on_step)
    _join_reviews(place, retry)
    after = listed_files(snapshots.newest())
    return Compaction(files_before=len(listed), files_after=len(after), version=version)


def groups(sizes: Sequence[int], target_bytes: int) -> list[range]:
    """Return the ranges of neighbours to join: two or more files, `target_bytes` at most together.

    The first file of a group is followed by as many as fit.
    """
    found, start, total = [], 0, 0
    for number, size in enumerate([*sizes, target_bytes + 1]):
        if total + size > target_bytes:
            if number - start > 1:
                found.append(range(start, number))
            start, total = number, 0
        total += size
    return found


def _joined(
    snapshot: DeltaTable,
    place: Where,
    run_id: str,
    target_bytes: int,
) -> Addition | None:
    """Write the joined files of one run; return their additions and the removals, if any."""
    mine = _of_run(snapshot, run_id)
    if len(mine) < 2:
        return None
    mine = mine.sort_by([("min.batch_index", "ascending"), ("path", "ascending")])
    store_files = filesystem(place, "samples")
    actions: list[AddAction | RemoveAction] = []
    for group in groups(mine["size_bytes"].to_pylist(), target_bytes):
        part = mine.slice(group.start, len(group))
        files = Files(listed=part, schema=SAMPLES, filesystem=store_files)
        with reading(place, files):
            rows = files.dataset().to_table()
        data = parquet_bytes(rows.drop_columns(["run_id"]), row_group_rows=_ROW_GROUP)
        first = pc.min(rows["batch_index"]).as_py()
        path = f"run_id={run_id}/joined-{first:08d}-{digest_bytes(data)[:16]}.parquet"
        put(place, "samples", path, data)
        actions += _instead(
            part, path, data, file_statistics(rows, STATISTICS), partition={"run_id": run_id}
        )
    if not actions:
        return None
    return Addition(
        actions=actions,
        app_id=run_id,
        app_version=(snapshot.transaction_version(run_id) or 0) + 1,
        note={"run_id": run_id, "factory_operation": "optimize"},
    )


def _instead(
    old: pa.Table, path: str, data: bytes, stats: str, *, partition: Mapping[str, str | None]
) -> list[AddAction | RemoveAction]:
    """Return the actions that put one file, which holds the rows of `old`, in their place."""
    others = old.filter(pc.not_equal(old["path"], path))
    gone = _removals(others, partition, data_change=False)
    return [AddAction(path, len(data), dict(partition), now_ms(), False, stats), *gone]


def _removals(
    files: pa.Table, partition: Mapping[str, str | None], *, data_change: bool
) -> list[RemoveAction]:
    columns = (files[name].to_pylist() for name in ("path", "size_bytes"))
    return [
        RemoveAction(path, data_change, now_ms(), size, dict(partition))
        for path, size in zip(*columns, strict=True)
    ]


def _of_run(snapshot: DeltaTable, run_id: str) -> pa.Table:
    """Return the files of a run, of those that a snapshot lists."""
    listed = listed_files(snapshot)
    return listed.filter(pc.equal(listed["partition.run_id"], run_id)) if len(listed) else listed


def _join_reviews(place: Where, retry: Retry | None) -> None:
    """Put verdicts into one file; earlier versions, and releases by them, keep their own."""
    app_id = "reviews-joined"

    def joined(snapshot: DeltaTable) -> Addition | None:
        files = Files(listed=listed_files(snapshot), schema=REVIEWS,
                      filesystem=filesystem(place, "reviews"))  # fmt: skip
        if len(files) < MANY_VERDICTS:
            return None
        with reading(place, files):
            rows = files.dataset().to_table()
        data = parquet_bytes(rows.sort_by([("reviewed_at", "ascending"), ("event", "ascending")]))
        path = f"joined-{digest_bytes(data)[:16]}.parquet"
        put(place, "reviews", path, data)
        stats = file_statistics(rows, ("review_id", "event"))
        return Addition(
            actions=_instead(files.listed, path, data, stats, partition={}),
            app_id=app_id,
            app_version=(snapshot.transaction_version(app_id) or 0) + 1,
            note={"factory_operation": "optimize"},
        )

    if Catalog(place).version_of("reviews") is not None:
        commit_missing(Snapshots(place, "reviews"), joined, retry=retry)


def _runs(listed: pa.Table) -> list[str]:
    runs: list[str] = listed["partition.run_id"].to_pylist() if len(listed) else []
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What the newest version holds, or held, of one run, and what goes on showing it."""

    accepted: int
    rejected: int
    version: int
    """The newest version; the one without the run where it was taken out."""
    releases: Sequence[str]


def remove_run(
    place: Where,
    run_id: str,
    *,
    now: datetime,
    dry_run: bool = True,
    retry: Retry | None = None,
    on_step: OnStep | None = None,
) -> Removed:
    """Take a run's images out of the newest version, in one commit: nobody sees a part of them.

    Earlier versions, and releases, keep them (`vacuum` takes the files that no release needs). The
    run is 'removed' then; drawn again, under the same configuration, it has the same rows.

    Args:
        place: the catalog.
        run_id: as `runs` has it.
        now: time of the event, UTC.
        dry_run: only tell what would go.
        retry: attempts and back-off when other writers win.
        on_step: hook of the fault tests.

    Raises:
        CatalogError: no such run, one that may be drawing, or not writable.
    """
    catalog = Catalog(place)
    row: dict[str, Any] = catalog.run(run_id)
    if row["status"] == "started":
        heard = next(state.heard_at for state in run_states(catalog) if state.run_id == run_id)
        if now - heard < SAFE:
            raise CatalogError(
                f"run {run_id} may still be writing: it was heard of at {heard:%Y-%m-%d %H:%M} UTC",
                remedy="Let it finish (`factory generate --resume`), or ask again a day after",
            )
    counts, files = run_counts(catalog, run_id), catalog.release_files()
    inside = pc.starts_with(files["path"], f"run_id={run_id}/")
    kept = {release.name for release in list_releases(place) if not release.retracted}
    names = sorted(set(files.filter(inside)["name"].to_pylist()) & kept)
    version = catalog.version or 0
    if not dry_run:

        def without(snapshot: DeltaTable) -> Addition | None:
            return _without(snapshot, run_id)

        version = commit_missing(Snapshots(place, "samples"), without, retry=retry, on_step=on_step)
        if row["status"] != REMOVED:
            gone = {"status": REMOVED, "num_accepted": 0, "num_rejected": 0, "updated_at": now}
            empty = {"rejected_by_gate": "{}", "message": f"removed in version {version}"}
            record_run(place, {**row, **gone, **empty, "event": row["event"] + 1}, retry=retry)
    return Removed(
        accepted=counts.accepted, rejected=counts.rejected, version=version, releases=names
    )


def _without(snapshot: DeltaTable, run_id: str) -> Addition | None:
    mine = _of_run(snapshot, run_id)
    if not len(mine):
        return None
    return Addition(
        actions=_removals(mine, {"run_id": run_id}, data_change=True),
        app_id=run_id,
        app_version=(snapshot.transaction_version(run_id) or 0) + 1,
        note={"run_id": run_id, "factory_operation": "remove"},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """Files below `samples` that went, or would go in a dry run, and what held the others."""

    paths: Sequence[str]
    num_bytes: int
    kept_releases: Sequence[str]
    given_up: Sequence[str]
    """Retracted releases: their files may go, and then they cannot be read any more."""


def vacuum(
    place: Where,
    *,
    retain: timedelta,
    dry_run: bool = True,
) -> Vacuumed:
    """Delete files of `samples` that were replaced, or never published, longer ago than `retain`.

    A file of the newest version or of a release that was not retracted never goes. Versions that
    are neither can no longer be read once their files are gone. Do not release an old version at
    the same time.

    Raises:
        CatalogError: no catalog there; less than `SAFE` while a run may be writing; not writable.
    """
    _check_idle(place, retain)
    releases = list_releases(place)
    kept = [release for release in releases if not release.retracted]
    versions = sorted({release.version for release in kept})
    table = open_table(place, "samples")
    hours = int(retain.total_seconds() // 3600)

    def run(*, dry: bool) -> list[str]:
        with storage_errors(place):
            return table.vacuum(
                hours,
                dry_run=dry,
                enforce_retention_duration=False,
                full=True,  # also what was written and never published
                keep_versions=versions,
            )

    candidates = sorted(run(dry=True))  # with those that an earlier vacuum took
    found = sizes(place, "samples", candidates)
    paths = [path for path in candidates if found[path] is not None]
    files = Catalog(place).release_files()
    names = [release.name for release in kept]
    needed = files.filter(pc.is_in(files["name"], pa.array(names, pa.string())))
    torn = sorted(set(paths) & set(needed["path"].to_pylist()))
    if torn:  # a belt beside keep_versions
        raise CatalogError(
            f"vacuum would take {torn[0]}, which a release needs",
            remedy="Report this as a bug; nothing was deleted",
        )
    if paths and not dry_run:
        run(dry=False)
    return Vacuumed(
        paths=paths,
        num_bytes=sum(found[path] or 0 for path in paths),
        kept_releases=names,
        given_up=[release.name for release in releases if release.retracted],
    )


def _check_idle(place: Where, retain: timedelta) -> None:
    """Refuse to take the fresh files of a run that may be writing them.

    Raises:
        CatalogError: naming the run, or a negative time.
    """
    if retain < timedelta(0):
        raise CatalogError(f"files cannot be kept for {retain}", remedy="Give 0 days or more")
    if retain >= SAFE:
        return
    for row in Catalog(place).runs_latest().to_pylist():
        if row["status"] == "started":
            raise CatalogError(
                f"run {row['run_id']} may still be writing, and {retain} would take its files",
                remedy="Let it finish (`factory generate --resume`), or retain 1 day or more",
            )
