"""Many small files of a run become few larger ones: the same rows, in the same order.

deltalake's own `optimize.compact` is not used: it cuts the bounds of `created_at` to milliseconds,
after which a query for the exact time of a row finds none (measured with 1.6.6), and packs PNGs
again. Here the files are written as the sink writes them, with the same statistics.

Exactly once holds on: files of one run are replaced under that run's application transaction, on
the snapshot they were read from. A sink that commits in between wins, and the compaction is decided
again; one that comes after it finds its snapshot refused, and sees the batches inside the new file.
Earlier versions keep the old files, and with them every release, until `vacuum` takes what no
version of a release needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from catalog.batch import file_statistics, parquet_bytes
from catalog.files import Files, listed_files
from catalog.place import StorageOptions
from catalog.schema import SAMPLES, STATISTICS
from catalog.sink import now_ms
from catalog.store import filesystem, open_table, put, reading
from catalog.transaction import Addition, OnStep, Retry, Snapshots, commit_missing
from factory.digest import digest_bytes

TARGET_BYTES = 32 << 20
"""Size up to which files are joined: about what is read to show one image of it."""
_ROW_GROUP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """Files of the newest version before and after, and the version after."""

    files_before: int
    files_after: int
    version: int


def optimize(
    uri: str | Path,
    *,
    target_bytes: int = TARGET_BYTES,
    storage_options: StorageOptions | None = None,
    retry: Retry | None = None,
    on_step: OnStep | None = None,
) -> Compaction:
    """Join small neighbouring files of every run up to `target_bytes`, a commit per run.

    Neighbours are told by their batches. Safe beside running runs; asked again it does nothing.

    Raises:
        CatalogError: no catalog there, a file is gone, or not writable.
    """
    open_table(uri, "samples", storage_options=storage_options)  # never made here
    snapshots = Snapshots(uri, "samples", storage_options)
    snapshot = snapshots.newest()
    listed, version = listed_files(snapshot), snapshot.version()
    for run_id in sorted(set(_runs(listed))):

        def joined(snapshot: DeltaTable, run_id: str = run_id) -> Addition | None:
            return _joined(snapshot, uri, run_id, target_bytes, storage_options)

        version = commit_missing(snapshots, joined, retry=retry, on_step=on_step)
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
    uri: str | Path,
    run_id: str,
    target_bytes: int,
    storage_options: StorageOptions | None,
) -> Addition | None:
    """Write the joined files of one run; return their additions and the removals, if any."""
    listed = listed_files(snapshot)
    mine = listed.filter(pc.equal(listed["partition.run_id"], run_id)) if len(listed) else listed
    if len(mine) < 2:
        return None
    mine = mine.sort_by([("min.batch_index", "ascending"), ("path", "ascending")])
    place = filesystem(uri, "samples", storage_options)
    actions: list[AddAction | RemoveAction] = []
    for group in groups(mine["size_bytes"].to_pylist(), target_bytes):
        part = mine.slice(group.start, len(group))
        files = Files(listed=part, schema=SAMPLES, filesystem=place)
        with reading(uri, files):
            rows = files.dataset().to_table()
        actions.append(_written(uri, run_id, rows, storage_options))
        actions += [
            RemoveAction(path, False, now_ms(), size, {"run_id": run_id})
            for path, size in zip(
                *(part[name].to_pylist() for name in ("path", "size_bytes")), strict=True
            )
        ]
    if not actions:
        return None
    return Addition(
        actions=actions,
        app_id=run_id,
        app_version=(snapshot.transaction_version(run_id) or 0) + 1,
        note={"run_id": run_id, "factory_operation": "optimize"},
    )


def _written(
    uri: str | Path, run_id: str, rows: pa.Table, storage_options: StorageOptions | None
) -> AddAction:
    """Write the rows to one file, named after its first batch and its bytes."""
    data = parquet_bytes(rows.drop_columns(["run_id"]), row_group_rows=_ROW_GROUP)
    first = pc.min(rows["batch_index"]).as_py()
    path = f"run_id={run_id}/joined-{first:08d}-{digest_bytes(data)[:16]}.parquet"
    put(uri, "samples", path, data, storage_options=storage_options)
    stats = file_statistics(rows, STATISTICS)
    return AddAction(path, len(data), {"run_id": run_id}, now_ms(), False, stats)


def _runs(listed: pa.Table) -> list[str]:
    runs: list[str] = listed["partition.run_id"].to_pylist() if len(listed) else []
    return runs
