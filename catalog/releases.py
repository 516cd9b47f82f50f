"""Releases: named, immutable versions of a synthetic dataset, and how they are read.

A release `wbc@1.2.0` pins one version of `samples`, a condition on its rows, and the SHA-256 of
every file that holds one; its manifest digest covers all rows and files. Where the condition asks
what people said of images, it pins the version of `reviews` too: later verdicts do not move it.
`wbc` is its base name and means the highest version that was not retracted. Nothing of a release is
ever changed: it can only be retracted, with a reason that every later reader is told.
`catalog/releasing.py` makes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catalog.boundary import json_counts
from catalog.manifest import (
    ROW_COLUMNS,
    Difference,
    FileDigest,
    difference,
    file_digests,
    manifest_digest,
    parse_semver,
    read_rows,
    rows_digest,
)
from catalog.place import Where
from catalog.query import sql
from catalog.schema import RETRACTED, SAMPLES
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
    review_version: int | None

    @property
    def retracted(self) -> bool:
        """Whether it was retracted."""
        return self.status == RETRACTED


def list_releases(place: Where) -> list[Release]:
    """Return every release in order of creation, retracted ones too; none in older catalogs."""
    rows = Catalog(place).releases_latest().to_pylist()
    return [_release(row) for row in rows]


def find_release(place: Where, name: str) -> Release:
    """Return the release `name`; a base name means the highest version, retracted ones last.

    Raises:
        CatalogError: no such release.
    """
    releases = list_releases(place)
    found = [release for release in releases if name in (release.name, release.base_name)]
    if not found:
        raise CatalogError(f"there is no release {name!r} in {str(place)!r}", remedy=_LIST)
    return max(found, key=lambda r: (r.name == name, not r.retracted, parse_semver(r.semver)))


def open_release(
    place: Where,
    name: str,
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
    release = find_release(place, name)
    if release.retracted and not allow_retracted:
        raise CatalogError(
            f"release {release.name} was retracted: {release.reason}",
            remedy="Use another release (`factory release list`)",
        )
    selection = audited(place, release, ask=ask)
    held = forgotten(place).holds(selection.keys)
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
    place: Where,
    release: Release,
    *,
    ask: Ask = sql,
) -> Selection:
    """Return the rows that were released, even if retracted or forgotten since: for checks alone.

    Raises:
        CatalogError: the version that it pins cannot be opened.
    """
    return Selection(
        catalog=Catalog(place, version=release.version, reviews=release.review_version),
        where=release.where,
        name=release.name,
        marked=forgotten_at(place, release.tombstone_version),
        ask=ask,
    )


def diff_releases(place: Where, before: str, after: str) -> Difference:
    """Return what changed from release `before` to release `after`.

    Raises:
        CatalogError: no such release, or its files are gone.
    """
    rows = [read_rows(audited(place, find_release(place, name)))[0] for name in (before, after)]
    return difference(*rows)


def diff_versions(place: Where, before: int, after: int, *, where: str = "true") -> Difference:
    """Return what changed in `samples` from one version to another, rejected images included.

    Raises:
        CatalogError: no such version, or its files are gone; a condition that fails.
    """

    def rows_of(version: int) -> pa.Table:
        selection = Selection(catalog=Catalog(place, version=version), where=where)
        if len(selection.keys):
            return read_rows(selection)[0]
        return pa.schema([SAMPLES.field(name) for name in ROW_COLUMNS]).empty_table()

    return difference(rows_of(before), rows_of(after))


def _release(row: Mapping[str, Any]) -> Release:
    known = dict(row)
    known["version"], known["where"] = known.pop("catalog_version"), known.pop("condition")
    known["class_counts"] = json_counts(known["class_counts"], f"class_counts of {row['name']!r}")
    for name in ("model_ids", "split_digests"):
        known[name] = tuple(known[name])
    return Release(**{field.name: known[field.name] for field in fields(Release)})


_PIXELS = ("image_id", "image", "mask", "pixel_sha256")
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked of a release, and what is wrong with it: a sentence each."""

    release: Release
    num_files: int
    num_images: int
    problems: Sequence[str] = field(default_factory=tuple)

    @property
    def holds(self) -> bool:
        """Whether files, rows, pixels and the manifest digest are those of the release."""
        return not self.problems


def verify_release(place: Where, name: str) -> Verification:
    """Hash the files, the rows and the pixels of a release again; memory holds a few images.

    Retracted releases and forgotten images are checked like others.

    Raises:
        CatalogError: no such release, or the catalog itself cannot be opened.
    """
    release = find_release(place, name)
    recorded = _recorded(place, release)
    found = list(file_digests(place, [file.path for file in recorded]))
    problems = list(_wrong_files(release, recorded, found))
    num_images = 0
    try:
        selection = audited(place, release)
        rows, paths = read_rows(selection)
        problems += _wrong_rows(release, rows_digest(rows), len(rows))
        problems += [
            f"file {path} holds rows of it and is not in its list"
            for path in sorted(set(paths) - {file.path for file in recorded})
        ]
        for batch in selection.batches(_PIXELS, batch_size=_AT_ONCE):
            num_images += len(batch)
            problems += [wrong for row in batch.to_pylist() if (wrong := _wrong_pixels(row))]
    except CatalogError as error:
        problems.append(f"its rows cannot be read: {error.what}")
    return Verification(
        release=release, num_files=len(recorded), num_images=num_images, problems=problems
    )


def _recorded(place: Where, release: Release) -> list[FileDigest]:
    files = Catalog(place).release_files()
    rows = files.filter(pc.equal(files["name"], release.name)).to_pylist()
    return [
        FileDigest(path=row["path"], size_bytes=row["size_bytes"], sha256=row["sha256"])
        for row in rows
    ]


def _wrong_files(
    release: Release, recorded: Sequence[FileDigest], found: Sequence[FileDigest | None]
) -> Iterator[str]:
    for before, now in zip(recorded, found, strict=True):
        if now is None:
            yield f"file {before.path} is gone"
        elif now.size_bytes != before.size_bytes:
            yield f"file {before.path} has {now.size_bytes} bytes, {before.size_bytes} recorded"
        elif now.sha256 != before.sha256:
            yield f"file {before.path} has SHA-256 {now.sha256}, {before.sha256} recorded"
    if manifest_digest(release.rows_digest, recorded) != release.manifest_digest:
        yield f"its list of {len(recorded)} files is not the one of its manifest digest"


def _wrong_rows(release: Release, of_rows: str, count: int) -> Iterator[str]:
    if count != release.num_images:
        yield f"{count} images satisfy its condition, {release.num_images} were released"
    if of_rows != release.rows_digest:
        yield f"ids, pixels and classes have digest {of_rows}, {release.rows_digest} recorded"


def _wrong_pixels(row: Mapping[str, Any]) -> str | None:
    from factory.real.pixels import pixel_sha256, published_pixels

    try:
        image, mask = published_pixels(row)
    except OSError as error:
        return f"image {row['image_id']} cannot be decoded ({error})"
    if pixel_sha256(image, mask) == row["pixel_sha256"]:
        return None
    return f"image {row['image_id']} has other pixels than its pixel_sha256 says"
