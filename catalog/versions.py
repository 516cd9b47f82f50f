"""Which version of a table was the newest at a moment, read from the commits themselves."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deltalake import DeltaTable

from catalog.place import StorageOptions
from catalog.store import filesystem, storage_errors
from factory.errors import CatalogError


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


def commit_time(
    uri: str | Path, name: str, version: int, *, storage_options: StorageOptions | None = None
) -> datetime:
    """Return when `version` of table `name` was committed, to the millisecond.

    Read from the commit, not from the file's date as delta-rs does: copies keep it, and it is the
    time that `history` shows.

    Raises:
        CatalogError: the commit is gone, or damaged.
    """
    entry = f"_delta_log/{version:020d}.json"
    with storage_errors(uri):
        log = filesystem(uri, name, storage_options)
        with log.open_input_stream(entry) as stream:
            lines = stream.read().splitlines()
    try:
        actions = [json.loads(line) for line in lines]
        written = next((a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a), 0)
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=written)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CatalogError(
            f"log entry '{name}/{entry}' of the catalog at {str(uri)!r} is damaged ({error})",
            remedy="Restore it from a copy, or leave --as-of out",
        ) from error


def version_at(
    newest: DeltaTable,
    uri: str | Path,
    name: str,
    moment: datetime,
    *,
    storage_options: StorageOptions | None = None,
) -> int | None:
    """Return the last version committed at or before `moment`, None if there was none yet.

    A binary search: it reads about log2(versions) commits.
    """
    low, high = -1, newest.version()
    while low < high:
        middle = (low + high + 1) // 2
        if commit_time(uri, name, middle, storage_options=storage_options) <= moment:
            low = middle
        else:
            high = middle - 1
    return low if low >= 0 else None
