"""Does a release still hold what was released? Every byte and every pixel is hashed again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from catalog.manifest import (
    FileDigest,
    file_digests,
    manifest_digest,
    read_rows,
    rows_digest,
)
from catalog.place import StorageOptions
from catalog.releases import Release, audited, find_release
from catalog.table import Catalog
from factory.errors import CatalogError

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


def verify_release(
    uri: str | Path, name: str, storage_options: StorageOptions | None = None
) -> Verification:
    """Hash the files, the rows and the pixels of a release again; memory holds a few images.

    Retracted releases and forgotten images are checked like others.

    Raises:
        CatalogError: no such release, or the catalog itself cannot be opened.
    """
    release = find_release(uri, name, storage_options)
    recorded = _recorded(uri, release, storage_options)
    found = list(
        file_digests(uri, [file.path for file in recorded], storage_options=storage_options)
    )
    problems = list(_wrong_files(release, recorded, found))
    num_images = 0
    try:
        selection = audited(uri, release, storage_options)
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


def _recorded(
    uri: str | Path, release: Release, storage_options: StorageOptions | None
) -> list[FileDigest]:
    files = Catalog(uri, storage_options).release_files()
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
    except (OSError, ValueError, SyntaxError) as error:  # PIL's errors of a broken PNG
        return f"image {row['image_id']} cannot be decoded ({error})"
    if pixel_sha256(image, mask) == row["pixel_sha256"]:
        return None
    return f"image {row['image_id']} has other pixels than its pixel_sha256 says"
