"""The exactly-once heart: publishes written batches, and records runs and models.

Promises (tests/laws/test_sink_machine.py holds them against replay, reorder, stale snapshots,
crashes and rival writers):

- a batch of a run is in every version of the table at most once, however often it is drawn,
  written or committed, and by whomever;
- a row is visible only when its whole file is; a crash leaves at most files nobody refers to,
  which vacuum removes after retention;
- a published file is never changed.

Two belts: what a run has published is read from the file names of ONE snapshot and the rest is
committed through that snapshot under the run's application transaction (catalog/transaction.py);
and a file's name holds its batch and the digest of its bytes, so the same file added twice is one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from catalog.batch import (
    BatchFile,
    batch_index_of,
    cast_rows,
    file_statistics,
    parquet_bytes,
    write_batch,
)
from catalog.boundary import check_run_id
from catalog.place import Where
from catalog.schema import STATUSES, TABLES
from catalog.store import put, sizes
from catalog.transaction import Addition, OnStep, Retry, Snapshots, commit_missing
from factory.digest import digest_bytes
from factory.errors import CatalogError
from factory.terminal import without_passwords

__all__ = ["BatchFile", "SampleSink", "record_model", "record_run", "write_batch"]


@dataclass(frozen=True, slots=True)
class SampleSink:
    """Publishes the batches of one run. Any number of sinks may serve one run at a time.

    Args:
        place: catalog, created when there is none.
        run_id: letters, digits, '._-'.
        retry: attempts and back-off when other writers win.
        on_step: hook of the fault tests.

    Raises:
        CatalogError: bad run id, the place cannot be written, or the catalog is of a newer factory.
    """

    place: Where
    run_id: str
    retry: Retry = field(default_factory=Retry, kw_only=True, repr=False)
    on_step: OnStep | None = field(default=None, kw_only=True, repr=False)
    _known: "_Known" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        snapshots = Snapshots(self.place, "samples")
        object.__setattr__(self, "_known", _Known(self.run_id, snapshots))

    def published(self) -> frozenset[int]:
        """Return the batch indices of this run in the newest version.

        Costs the list of the run's files, not its rows.
        """
        return self._known.batches(self._known.snapshots.newest())

    def commit(self, files: Sequence[BatchFile]) -> int:
        """Publish those of `files` whose batch is not published yet, in one Delta commit.

        Returns the table's version, in which all of these batches are visible. The first of two
        files of one batch wins, in the call and in the table.

        Raises:
            CatalogError: a file of another run, missing or of another size; rivals won every
                attempt; the storage failed. Published is then all of this call or nothing.
        """
        first = {file.batch_index: file for file in reversed(files)}
        self._check(list(first.values()))
        made: tuple[int, frozenset[int]] | None = None

        def missing(snapshot: DeltaTable) -> Addition | None:
            nonlocal made
            held = self._known.batches(snapshot)
            fresh = [first[index] for index in sorted(first.keys() - held)]
            made = None
            if not fresh:
                return None
            app_version = (snapshot.transaction_version(self.run_id) or 0) + 1
            made = app_version, held.union(file.batch_index for file in fresh)
            return Addition(
                actions=[_add_action(file) for file in fresh],
                app_id=self.run_id,
                app_version=app_version,
                note={
                    "run_id": self.run_id,
                    "batches": _ranges([file.batch_index for file in fresh]),
                    "num_rows": sum(file.num_rows for file in fresh),
                },
            )

        version = commit_missing(
            self._known.snapshots, missing, retry=self.retry, on_step=self.on_step
        )
        if made is not None:
            self._known.last = made
        return version

    def _check(self, files: Sequence[BatchFile]) -> None:
        """Refuse files that are not whole batches of this run, before anything points to them."""
        for file in files:
            if file.run_id != self.run_id or batch_index_of(file.path) != file.batch_index:
                raise CatalogError(
                    f"{file.path} is not batch {file.batch_index} of {self.run_id}",
                    remedy="Commit what `write_batch` returned for this run",
                )
        paths = [file.path for file in files]
        found = sizes(self.place, "samples", paths)
        for file in files:
            if found[file.path] != file.size_bytes:
                raise CatalogError(
                    f"{file.path} has {found[file.path]} bytes, {file.size_bytes} were written",
                    remedy="Write the batch again: `write_batch` with the same rows",
                )


class _Known:
    """What a sink knows of its run, so that a commit need not list the run's files again.

    Each commit of a run raises the run's transaction by one, and the table takes one commit for
    each number. As long as the number is that of the sink's own last commit, nobody else has
    published a batch of the run.
    """

    def __init__(self, run_id: str, snapshots: Snapshots) -> None:
        self.run_id, self.snapshots = run_id, snapshots
        self.last: tuple[int, frozenset[int]] | None = None
        """Transaction and batches after the last commit that was confirmed."""

    def batches(self, snapshot: DeltaTable) -> frozenset[int]:
        """Return the batch indices of the run that `snapshot` holds."""
        if self.last is not None and self.last[0] == snapshot.transaction_version(self.run_id):
            return self.last[1]
        return published_batches(snapshot, self.run_id)


def published_batches(snapshot: DeltaTable, run_id: str) -> frozenset[int]:
    """Return the batch indices of `run_id` that `snapshot` holds.

    Read from file names; only files that another tool rewrote (compaction) are looked into.
    """
    pruned = f"run_id = '{run_id}'"
    batches = {
        place: batch_index_of(place) for place in snapshot.file_uris(file_pruning_predicate=pruned)
    }
    known = frozenset(index for index in batches.values() if index is not None)
    if None not in batches.values():
        return known
    rewritten = snapshot.to_pyarrow_dataset(file_pruning_predicate=pruned).to_table(
        columns=["batch_index"], filter=pc.field("run_id") == run_id
    )
    return known | frozenset(rewritten["batch_index"].unique().to_pylist())


def record_run(
    place: Where,
    row: Mapping[str, object],
    *,
    retry: Retry | None = None,
) -> int:
    """Append an event of a run to `runs`, exactly once; return the table's version.

    `row` has the columns of `RUNS`. An event that is recorded already is left as it is.

    Raises:
        CatalogError: wrong columns or status, or an event older than the last one recorded.
    """
    run_id, event = str(row.get("run_id")), row.get("event")
    check_run_id(run_id)
    if row.get("status") not in STATUSES or not isinstance(event, int) or event < 0:
        raise CatalogError(
            f"run {run_id}: status {row.get('status')!r}, event {event!r}",
            remedy=f"Give a status of {STATUSES} and an event number from 0",
        )
    message = row.get("message")  # of any library's error
    told = {"message": without_passwords(message)} if isinstance(message, str) else {}
    return append_once(
        place,
        "runs",
        typed_rows([{**row, **told}], "runs"),
        key={"run_id": run_id, "event": event},
        app_id=run_id,
        app_version=event,
        retry=retry,
    )


def record_model(
    place: Where,
    row: Mapping[str, object],
    *,
    retry: Retry | None = None,
) -> int:
    """Add a model to `models`, exactly once; return the table's version.

    `row` has the columns of `MODELS`. A model that is there already is left as it is.

    Raises:
        CatalogError: wrong columns.
    """
    model_id = str(row.get("model_id") or "")
    check_run_id(model_id)
    return append_once(
        place,
        "models",
        typed_rows([row], "models"),
        key={"model_id": model_id},
        app_id=model_id,
        app_version=1,
        retry=retry,
    )


def append_once(
    place: Where,
    name: str,
    table: pa.Table,
    *,
    key: Mapping[str, str | int],
    app_id: str,
    app_version: int,
    retry: Retry | None = None,
) -> int:
    """Append rows with the application transaction (app_id, app_version) unless they are there.

    `key` names columns and values that all of them share and that no other rows have.

    Raises:
        CatalogError: not writable, or the place of the rows is passed.
    """

    def missing(snapshot: DeltaTable) -> Addition | None:
        last = snapshot.transaction_version(app_id)
        if last is not None and last >= app_version:
            _check_recorded(snapshot, key, last)
            return None
        action = put_rows(place, name, table, key=key)
        return Addition(actions=[action], app_id=app_id, app_version=app_version, note=key)

    return commit_missing(Snapshots(place, name), missing, retry=retry)


def put_rows(
    place: Where, name: str, table: pa.Table, *, key: Mapping[str, str | int]
) -> AddAction:
    """Write rows of a small table to a file; return the action that makes it part of the table.

    Its name holds the values of `key`, see `append_once`, and the digest of its bytes.

    Raises:
        CatalogError: not writable.
    """
    data = parquet_bytes(table)
    path = f"{stem_of(name, key)}{digest_bytes(data)[:16]}.parquet"
    put(place, name, path, data)
    return AddAction(path, len(data), {}, now_ms(), True, file_statistics(table, tuple(key)))


def stem_of(name: str, key: Mapping[str, str | int]) -> str:
    """Return how the name of a file of `put_rows` begins; the first values of a key will do."""
    values = (f"{each:06d}" if isinstance(each, int) else str(each) for each in key.values())
    return "-".join([name[:-1], *values, ""])


def _check_recorded(snapshot: DeltaTable, key: Mapping[str, str | int], last: int) -> None:
    """Refuse a row whose place is passed: a transaction's version only rises."""
    match = pc.scalar(True)
    for column, value in key.items():
        match &= pc.field(column) == value
    if snapshot.to_pyarrow_dataset().count_rows(filter=match) == 0:
        raise CatalogError(
            f"{dict(key)} comes after {last}, which is recorded already",
            remedy=f"Use the number {last + 1} or a later one",
        )


def typed_rows(rows: Sequence[Mapping[str, object]], name: str) -> pa.Table:
    """Return rows of table `name` under its schema.

    Raises:
        CatalogError: an unknown column, or a value of the wrong type.
    """
    schema = TABLES[name]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    unknown = sorted(set(columns) - set(schema.names))
    if unknown:
        raise CatalogError(
            f"table {name!r} has no columns {unknown}", remedy=f"Its columns are {schema.names}"
        )
    try:
        table = pa.table(
            {key: pa.array([row[key] for row in rows], schema.field(key).type) for key in columns}
        )
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise CatalogError(
            f"a row of {name!r} has a value of the wrong type ({error})",
            remedy="See the types in catalog/schema.py",
        ) from error
    return cast_rows(table, schema, where=f"a row of {name!r}")


def _add_action(file: BatchFile) -> AddAction:
    return AddAction(
        file.path, file.size_bytes, {"run_id": file.run_id}, now_ms(), True, file.stats
    )


def now_ms() -> int:
    """Return the time for Delta's own bookkeeping, milliseconds since 1970."""
    return int(time.time() * 1000)


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted `numbers` as text: '0-3,7,9-10'."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
