"""Where the tables of a catalog lie, and how they are opened, created and written to."""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from catalog.place import (
    Where,
    check_options,
    local_path,
    options_of,
    table_uri,
    what_to_check,
)
from catalog.schema import SCHEMA_VERSION, SCHEMA_VERSION_KEY, STATISTICS, TABLES
from factory.atomic import check_writable, write_bytes
from factory.errors import CatalogError, OutputError

if TYPE_CHECKING:
    from catalog.files import Files


_PARTITIONS = {"samples": ["run_id"]}
_STATISTICS = {
    "samples": STATISTICS,
    "runs": ("run_id", "event"),
    "models": ("model_id",),
    "evaluations": ("evaluation_id",),
    "scores": ("evaluation_id",),
    "releases": ("name", "event"),
    "release_files": ("name", "manifest_digest"),
    "tombstones": ("subject", "event"),
    "features": ("space_digest",),
    "maps": ("space_digest", "event"),
    "reviews": ("review_id", "event"),
}
_COMMIT = re.compile(r"\d{20}\.json")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_table(
    place: Where,
    name: str,
    *,
    version: int | None = None,
) -> DeltaTable:
    """Open a snapshot of table `name`: the newest, or the one of `version`.

    Raises:
        CatalogError: no such table or version, not readable, or of a newer factory.
    """
    check_options(place)
    try:
        local = local_path(table_uri(place, name))
        if local is not None:
            _check_log(local)
        table = DeltaTable(table_uri(place, name), storage_options=options_of(place))
        newest = table.version()
        if version is not None and version != newest:
            if not 0 <= version < newest:  # delta-rs would look for all in between
                raise CatalogError(
                    f"table {name!r} of {str(place)!r} cannot be opened at version {version}"
                    f" (the newest is {newest})",
                    remedy="See the versions with `factory catalog history`",
                )
            table.load_as_version(version)
    except TableNotFoundError as error:
        raise CatalogError(
            f"there is no catalog at {str(place)!r} (no table {name!r})",
            remedy="Check the --catalog URI, or publish a first run into it",
        ) from error
    except (DeltaError, OSError) as error:
        broken = _broken_log(place, name, error)
        if broken is not None:
            raise broken from error
        raise CatalogError(
            f"table {name!r} of {str(place)!r} cannot be opened"
            + ("" if version is None else f" at version {version}")
            + f" ({_in_short(error)})",
            remedy=f"{what_to_check(place)}; see the versions with `factory catalog history`",
        ) from error
    check_version(table, place)
    return table


def ensure_table(place: Where, name: str) -> DeltaTable:
    """Open table `name`, creating it where there is none. Any number of processes may race.

    Raises:
        CatalogError: the place cannot be written, or the table is of a newer factory.
    """
    check_options(place)
    options = options_of(place)
    with storage_errors(place):
        if not DeltaTable.is_deltatable(table_uri(place, name), options):
            _create(place, name, options)
    table = open_table(place, name)
    return _widened(table, place, name)


def _widened(table: DeltaTable, place: Where, name: str) -> DeltaTable:
    """Return the table with the columns that it was made too early for; others may do so first."""
    known = {field.name for field in table.schema().fields}
    lacking = [field for field in TABLES[name] if field.name not in known]
    if not lacking:
        return table
    with storage_errors(place), suppress(CommitFailedError):
        table.alter.add_columns(Schema.from_arrow(pa.schema(lacking)).fields)
    return open_table(place, name)


def _create(place: Where, name: str, options: dict[str, str] | None) -> None:
    """Commit version 0, unless another process does so first.

    Without retries: deltalake 1.6.6 with retries, or mode 'ignore', commits a second CREATE TABLE
    as version 1, with new metadata under the feet of those who already append.
    """
    try:
        DeltaTable.create(
            table_uri(place, name),
            TABLES[name],
            mode="error",
            name=name,
            partition_by=_PARTITIONS.get(name, []),
            configuration={
                SCHEMA_VERSION_KEY: str(SCHEMA_VERSION),
                "delta.dataSkippingStatsColumns": ",".join(_STATISTICS[name]),
                "delta.enableExpiredLogCleanup": "false",  # every version stays readable
                "delta.checkpointInterval": "50",
            },
            storage_options=options,
            raise_if_key_not_exists=False,
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except (CommitFailedError, DeltaError):
        if not DeltaTable.is_deltatable(table_uri(place, name), options):
            raise


def check_place(place: Where) -> None:
    """Find out, leaving nothing behind, whether a catalog can be read or made at `place`.

    For a store this asks once, so that a missing bucket or credential shows; whether it may be
    written shows the first write.

    Raises:
        CatalogError: no known place, not reachable, or a folder that may not be written.
    """
    check_options(place)
    for name in TABLES:
        root = table_uri(place, name)
        local = local_path(root)
        if local is None:
            with storage_errors(place):
                DeltaTable.is_deltatable(root, options_of(place))
            return
        log = local / "_delta_log"
        try:
            check_writable(log)
        except OutputError as error:
            raise CatalogError(
                f"the catalog at {str(place)!r} cannot be written, its place is no writable folder:"
                f" {error.what}",
                remedy=what_to_check(place),
            ) from error


def put(
    place: Where,
    name: str,
    path: str,
    data: bytes,
) -> None:
    """Write `data` to `path` below table `name`, whole or not at all.

    Raises:
        CatalogError: not writable, or no space left; nothing is visible then.
    """
    check_options(place)
    root = table_uri(place, name)
    local = local_path(root)
    with storage_errors(place):
        if local is not None:
            write_bytes(local / path, data)
        else:  # an object appears with the end of its upload
            store = filesystem(place, name)
            # larger than the data: else deltalake 1.6.6 is handed an Arrow buffer, not bytes
            with store.open_output_stream(path, buffer_size=len(data) + 1) as stream:
                stream.write(data)


def sizes(
    place: Where,
    name: str,
    paths: list[str],
) -> dict[str, int | None]:
    """Return the size in bytes of files below table `name`; None where there is no file."""
    with storage_errors(place):
        infos = filesystem(place, name).get_file_info(paths)
    return {
        path: info.size if info.type == fs.FileType.File else None
        for path, info in zip(paths, infos, strict=True)
    }


def filesystem(
    place: Where,
    name: str,
    *,
    sizes: Mapping[str, int] | None = None,
) -> fs.FileSystem:
    """Return an Arrow file system rooted at table `name`.

    `sizes` (path -> bytes) spares an object store a request per file.
    """
    root = table_uri(place, name)
    local = local_path(root)
    if local is not None:
        return fs.SubTreeFileSystem(str(local.absolute()), fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler(root, options_of(place) or {}, dict(sizes or {})))


def check_version(table: DeltaTable, place: Where) -> None:
    """Refuse a table whose schema is newer than this code.

    Raises:
        CatalogError: newer, or not a table of a catalog at all.
    """
    stored = table.metadata().configuration.get(SCHEMA_VERSION_KEY, "")
    if not stored.isdecimal():
        raise CatalogError(
            f"{table.table_uri} is a Delta table but no table of a catalog",
            remedy="Give the folder of a catalog, or an empty folder",
        )
    if int(stored) > SCHEMA_VERSION:
        raise CatalogError(
            f"the catalog at {str(place)!r} was written by a newer factory "
            f"(schema {stored}, this one knows {SCHEMA_VERSION})",
            remedy="Upgrade medimage-factory",
        )


@contextmanager
def storage_errors(place: Where) -> Iterator[None]:
    """Turn errors of disks and object stores into a `CatalogError` with a remedy."""
    try:
        yield
    except (OSError, pa.ArrowException, DeltaError) as error:
        reason = _in_short(error)
        full = isinstance(error, OSError) and error.errno in _FULL_DISK
        if full or any(f"os error {code})" in str(error) for code in _FULL_DISK):
            raise CatalogError(
                f"no space left while writing to {str(place)!r} ({reason})",
                remedy="Free some space and resume the run: what was published stays published",
            ) from error
        raise CatalogError(
            f"the catalog at {str(place)!r} cannot be read or written ({reason})",
            remedy=f"{what_to_check(place)}, then resume the run",
        ) from error


@contextmanager
def reading(place: Where, *files: "Files") -> Iterator[None]:
    """Turn the loss of a data file, one of `files`, into a `CatalogError` that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise unreadable(place, error, *files) from error


def unreadable(place: Where, error: Exception, *files: "Files") -> CatalogError:
    """Return the error that says which file of the catalog cannot be read."""
    try:
        found = next(filter(None, (each.broken() for each in files)), None)
    except (OSError, pa.ArrowException):  # the place itself is gone
        found = None
    return CatalogError(
        f"a file of the catalog at {str(place)!r} cannot be read: {found or _in_short(error)}",
        remedy="Restore it, or read a version before it (--version, --as-of)",
    )


def _broken_log(place: Where, name: str, error: Exception) -> CatalogError | None:
    """Return the error that names the broken entry of a local table's log, if one is found."""
    root = local_path(table_uri(place, name))
    log = Path() if root is None else root / "_delta_log"
    since = max((int(path.name[:20]) for path in log.glob("*.checkpoint*.parquet")), default=0)
    held = {int(path.stem): path for path in log.glob("*.json") if _COMMIT.fullmatch(path.name)}
    for version in range(since, max(held, default=-1) + 1):
        path = held.get(version, log / f"{version:020d}.json")
        if version in held and _is_json_lines(path):
            continue
        what = "is cut or damaged" if version in held else "is missing"
        away = f"move {'it' if version == max(held) else 'it and all later ones'} away"
        before = f"as of version {version - 1}" if version else "without images"
        return CatalogError(
            f"log entry {str(path)!r} of the catalog {what} ({_in_short(error)})",
            remedy=f"Restore it from a copy; or {away}: the catalog is then {before} again, and"
            " `factory generate --resume RUN_ID` publishes what is lacking",
        )
    return None


def _is_json_lines(path: Path) -> bool:
    try:
        lines = path.read_bytes().splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except (OSError, ValueError, RecursionError):
        return False


def _check_log(root: Path) -> None:
    """Refuse a local log with an empty entry: delta-rs takes it for one that changes nothing.

    Raises:
        DeltaError: what it held would be missing in silence.
    """
    with suppress(FileNotFoundError), os.scandir(root / "_delta_log") as entries:
        for entry in entries:
            if _COMMIT.fullmatch(entry.name) and entry.stat().st_size == 0:
                raise DeltaError(f"{entry.name} is empty")


def _in_short(error: Exception) -> str:
    plain = re.sub(r"\x1b\[\d*m|↳", "", str(error))  # delta-rs colours its messages
    plain = " ".join(plain.split())
    plain = re.split(r" \d+: (?:<unknown>|\w+ at )|: ParsedLogPath \{| stack backtrace", plain)[0]
    return plain[:300] or type(error).__name__


def parse_moment(text: str | datetime) -> datetime:
    """Return a moment from ISO 8601 text; without a zone it is UTC, without a time midnight.

    Raises:
        CatalogError: not ISO 8601.
    """
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise CatalogError(
            f"{text!r} is no ISO 8601 time", remedy="Write for example 2026-11-21T14:30:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def commit_time(place: Where, name: str, version: int) -> datetime:
    """Return when `version` of table `name` was committed, to the millisecond.

    Read from the commit, not from the file's date as delta-rs does: copies keep it, and it is the
    time that `history` shows.

    Raises:
        CatalogError: the commit is gone, or damaged.
    """
    entry = f"_delta_log/{version:020d}.json"
    with storage_errors(place):
        log = filesystem(place, name)
        with log.open_input_stream(entry) as stream:
            lines = stream.read().splitlines()
    try:
        actions = [json.loads(line) for line in lines]
        written = next((a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a), 0)
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=written)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CatalogError(
            f"log entry '{name}/{entry}' of the catalog at {str(place)!r} is damaged ({error})",
            remedy="Restore it from a copy, or leave --as-of out",
        ) from error


def version_at(
    newest: DeltaTable,
    place: Where,
    name: str,
    moment: datetime,
) -> int | None:
    """Return the last version committed at or before `moment`, None if there was none yet.

    A binary search: it reads about log2(versions) commits.
    """
    low, high = -1, newest.version()
    while low < high:
        middle = (low + high + 1) // 2
        if commit_time(place, name, middle) <= moment:
            low = middle
        else:
            high = middle - 1
    return low if low >= 0 else None
