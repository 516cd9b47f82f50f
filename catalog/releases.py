"""Releases: named, immutable versions of a synthetic dataset, and how they are read.

A release `wbc@1.2.0` pins one version of `samples`, a condition on its rows, and the SHA-256 of
every file that holds one; its manifest digest covers all rows and files. `wbc` is its base name and
means the highest version that was not retracted. Nothing of a release is ever changed: it can only
be retracted, with a reason that every later reader is told. `catalog/releasing.py` makes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from catalog.boundary import json_counts
from catalog.difference import Difference, difference, parse_semver
from catalog.manifest import read_rows
from catalog.place import StorageOptions
from catalog.query import sql
from catalog.schema import RETRACTED
from catalog.selection import Ask, Selection
from catalog.table import Catalog
from catalog.tombstones import forgotten, forgotten_at
from factory.errors import CatalogError

_LIST = "List them with `factory release list`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The latest state of one release; fields as in `schema.RELEASES`.

    `version` is the pinned version of `samples`, `where` the condition on its rows.
    """

    name: str
    base_name: str
    semver: str
    status: str
    previous: str | None
    version: int
    where: str
    tombstone_version: int | None
    num_images: int
    num_files: int
    class_counts: Mapping[str, int]
    rows_digest: str
    manifest_digest: str
    model_ids: tuple[str, ...]
    split_digests: tuple[str, ...]
    reason: str | None
    code_version: str
    created_at: datetime
    updated_at: datetime

    @property
    def retracted(self) -> bool:
        """Whether it was retracted."""
        return self.status == RETRACTED


def list_releases(uri: str | Path, storage_options: StorageOptions | None = None) -> list[Release]:
    """Return every release in order of creation, retracted ones too; none in older catalogs."""
    rows = Catalog(uri, storage_options).releases_latest().to_pylist()
    return [_release(row) for row in rows]


def find_release(
    uri: str | Path, name: str, storage_options: StorageOptions | None = None
) -> Release:
    """Return the release `name`; a base name means the highest version, retracted ones last.

    Raises:
        CatalogError: no such release.
    """
    releases = list_releases(uri, storage_options)
    found = [release for release in releases if name in (release.name, release.base_name)]
    if not found:
        raise CatalogError(f"there is no release {name!r} in {str(uri)!r}", remedy=_LIST)
    return max(found, key=lambda r: (r.name == name, not r.retracted, parse_semver(r.semver)))


def open_release(
    uri: str | Path,
    name: str,
    storage_options: StorageOptions | None = None,
    *,
    allow_retracted: bool = False,
    ask: Ask = sql,
) -> Selection:
    """Return the rows of a release; `ask` runs its condition, see `Selection`.

    Raises:
        CatalogError: no such release; it was retracted (with the reason, unless `allow_retracted`);
            it holds images that were forgotten since, which nothing allows; or its condition does
            not give as many rows as were released.
    """
    release = find_release(uri, name, storage_options)
    if release.retracted and not allow_retracted:
        raise CatalogError(
            f"release {release.name} was retracted: {release.reason}",
            remedy="Use another release (`factory release list`)",
        )
    selection = audited(uri, release, storage_options, ask=ask)
    held = forgotten(uri, storage_options).holds(selection.keys)
    if count := pc.sum(held).as_py():
        raise CatalogError(
            f"release {release.name} holds {count} images that a real image had a part in which was"
            " forgotten since",
            remedy=f"Make one without them: factory release create {release.base_name}",
        )
    if len(selection) != release.num_images:
        raise CatalogError(
            f"release {release.name} has {release.num_images} images, {len(selection)} are found",
            remedy=f"See what is wrong with `factory release verify {release.name}`",
        )
    return selection


def audited(
    uri: str | Path,
    release: Release,
    storage_options: StorageOptions | None = None,
    *,
    ask: Ask = sql,
) -> Selection:
    """Return the rows that were released, even if retracted or forgotten since: for checks alone.

    Raises:
        CatalogError: the version that it pins cannot be opened.
    """
    return Selection(
        catalog=Catalog(uri, storage_options, version=release.version),
        where=release.where,
        name=release.name,
        marked=forgotten_at(uri, release.tombstone_version, storage_options),
        ask=ask,
    )


def diff_releases(
    uri: str | Path, before: str, after: str, storage_options: StorageOptions | None = None
) -> Difference:
    """Return what changed from release `before` to release `after`.

    Raises:
        CatalogError: no such release, or its files are gone.
    """
    rows = [
        read_rows(audited(uri, find_release(uri, name, storage_options), storage_options))[0]
        for name in (before, after)
    ]
    return difference(*rows)


def _release(row: Mapping[str, Any]) -> Release:
    known = dict(row)
    known["version"], known["where"] = known.pop("catalog_version"), known.pop("condition")
    known["class_counts"] = json_counts(known["class_counts"], f"class_counts of {row['name']!r}")
    for name in ("model_ids", "split_digests"):
        known[name] = tuple(known[name])
    return Release(**{field.name: known[field.name] for field in fields(Release)})
