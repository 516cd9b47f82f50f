"""What may be deleted from disk: files that neither the newest version nor a release needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from catalog.place import StorageOptions
from catalog.releases import list_releases
from catalog.store import open_table, sizes, storage_errors
from catalog.table import Catalog
from factory.errors import CatalogError

SAFE = timedelta(days=1)
"""No run leaves a written batch unpublished for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """Files below `samples` that went, or would go in a dry run, and what held the others."""

    paths: Sequence[str]
    num_bytes: int
    kept_releases: Sequence[str]
    given_up: Sequence[str]
    """Retracted releases: their files may go, and then they cannot be read any more."""


def vacuum(
    uri: str | Path,
    *,
    retain: timedelta,
    dry_run: bool = True,
    storage_options: StorageOptions | None = None,
) -> Vacuumed:
    """Delete files of `samples` that were replaced, or never published, longer ago than `retain`.

    A file of the newest version or of a release that was not retracted never goes. Versions that
    are neither can no longer be read once their files are gone. Do not release an old version at
    the same time.

    Raises:
        CatalogError: no catalog there; less than `SAFE` while a run may be writing; not writable.
    """
    _check_idle(uri, retain, storage_options)
    releases = list_releases(uri, storage_options)
    kept = [release for release in releases if not release.retracted]
    versions = sorted({release.version for release in kept})
    table = open_table(uri, "samples", storage_options=storage_options)
    hours = int(retain.total_seconds() // 3600)

    def run(*, dry: bool) -> list[str]:
        with storage_errors(uri):
            return table.vacuum(
                hours,
                dry_run=dry,
                enforce_retention_duration=False,
                full=True,  # also what was written and never published
                keep_versions=versions,
            )

    candidates = sorted(run(dry=True))  # with those that an earlier vacuum took
    found = sizes(uri, "samples", candidates, storage_options=storage_options)
    paths = [path for path in candidates if found[path] is not None]
    files = Catalog(uri, storage_options).release_files()
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


def _check_idle(uri: str | Path, retain: timedelta, storage_options: StorageOptions | None) -> None:
    """Refuse to take the fresh files of a run that may be writing them.

    Raises:
        CatalogError: naming the run, or a negative time.
    """
    if retain < timedelta(0):
        raise CatalogError(f"files cannot be kept for {retain}", remedy="Give 0 days or more")
    if retain >= SAFE:
        return
    for row in Catalog(uri, storage_options).runs_latest().to_pylist():
        if row["status"] == "started":
            raise CatalogError(
                f"run {row['run_id']} may still be writing, and {retain} would take its files",
                remedy="Let it finish (`factory generate --resume`), or retain 1 day or more",
            )
