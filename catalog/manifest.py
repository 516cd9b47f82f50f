"""What a release is made of: its rows, their files, one digest over both; what changed since.

Semantic versions follow the Croissant specification 1.0 (section on versioning of datasets), read
for images: PATCH when the rows are the same and only the files differ, MINOR when rows were only
added, MAJOR when a row was changed or removed, so that what was trained on the old ones may no
longer be had from the new.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from catalog.boundary import check_files
from catalog.place import Where
from catalog.selection import Selection
from catalog.store import filesystem, reading
from factory.digest import canonical_json, sha256_hex
from factory.errors import CatalogError

ROW_COLUMNS = (
    *("image_id", "pixel_sha256", "class_name"),
    *("recipe_digest", "model_id", "split_digest"),
)
"""Columns that a release is compared and described by."""

_CHUNK_BYTES = 1 << 20
_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """A Parquet file below `samples`, with the SHA-256 of its bytes in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows (`ROW_COLUMNS`, ordered by image_id) and files of one selection."""

    rows: pa.Table
    files: tuple[FileDigest, ...]

    @property
    def class_counts(self) -> dict[str, int]:
        """Images per class."""
        return dict(sorted(Counter(self.rows["class_name"].to_pylist()).items()))

    @property
    def model_ids(self) -> list[str]:
        """The generators that drew the rows, sorted."""
        return _distinct(self.rows, "model_id")

    @property
    def split_digests(self) -> list[str]:
        """The splits they were trained under, as far as the rows say, sorted."""
        return _distinct(self.rows, "split_digest")


def read_manifest(selection: Selection) -> Manifest:
    """Read the key columns of every row and every byte of every file that holds one.

    Raises:
        CatalogError: nothing is selected, or a file is gone.
    """
    rows, paths = read_rows(selection)
    catalog = selection.catalog
    digests = file_digests(catalog.place, paths)
    files = [file for file in digests if file is not None]
    if len(files) < len(paths):
        gone = sorted(set(paths) - {file.path for file in files})[0]
        raise CatalogError(
            f"{catalog.named} has lost the file {gone}",
            remedy="Restore it, or choose a version before it or a condition without its rows",
        )
    return Manifest(rows=rows, files=tuple(files))


def read_rows(selection: Selection) -> tuple[pa.Table, list[str]]:
    """Return the key columns of the rows, ordered by image_id, and the paths that hold them."""
    parts = list(selection.batches([*ROW_COLUMNS, "__filename"], batch_size=4096))
    held = pa.concat_tables(parts)
    paths = sorted(pc.unique(held["__filename"]).to_pylist())
    return held.select(ROW_COLUMNS).sort_by("image_id"), paths


def rows_digest(rows: pa.Table) -> str:
    """Return the SHA-256 in hex over the rows: a JSON line of id, pixels and class for each.

    It depends on the set of rows alone, not on files or their order: `rows` come sorted by id.
    """
    sha = hashlib.sha256()
    columns = (rows[name].to_pylist() for name in ROW_COLUMNS[:3])
    for row in zip(*columns, strict=True):
        sha.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return sha.hexdigest()


def manifest_digest(of_rows: str, files: Sequence[FileDigest]) -> str:
    """Return the SHA-256 in hex over the rows' digest and every file's path, size and digest."""
    listed = sorted((asdict(file) for file in files), key=lambda file: str(file["path"]))
    return sha256_hex(canonical_json({"rows": of_rows, "files": listed}).encode())


def file_digests(place: Where, paths: Sequence[str]) -> Iterator[FileDigest | None]:
    """Yield size and SHA-256 of files below `samples`, in this order; None where there is none.

    Raises:
        CatalogError: the storage cannot be read, or a path does not lie in the table.
    """
    check_files(pa.array(paths, pa.string()), None, f"a release of {str(place)!r}")
    store = filesystem(place, "samples")
    with reading(place), ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(lambda path: _digest_of(store, path), paths)


def _digest_of(store: fs.FileSystem, path: str) -> FileDigest | None:
    sha, size = hashlib.sha256(), 0
    try:
        with store.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                sha.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    return FileDigest(path=path, size_bytes=size, sha256=sha.hexdigest())


def _distinct(rows: pa.Table, column: str) -> list[str]:
    return sorted(pc.unique(rows[column].drop_null()).to_pylist())


Change = Literal["major", "minor", "patch"]
Version = tuple[int, int, int]
Counts = Mapping[str, Mapping[str, int]]
"""group -> {'added': n, 'removed': n, 'changed': n}."""

FIRST: Version = (1, 0, 0)
KINDS = ("added", "removed", "changed")
_IDENTITY = ("image_id", "pixel_sha256", "class_name")
_SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Rows that only `after` has, that only `before` has, and those of both that differ.

    Rows are tables with at least image_id, pixel_sha256, class_name and recipe_digest; a row is
    changed when one image_id has other pixels (or mask) or another class. `changed` holds the rows
    as they are after it.
    """

    added: pa.Table
    removed: pa.Table
    changed: pa.Table

    @property
    def change(self) -> Change:
        """The part of the version that must rise."""
        if len(self.removed) or len(self.changed):
            return "major"
        return "minor" if len(self.added) else "patch"

    @cached_property
    def by_class(self) -> Counts:
        """Counts per class."""
        return self._by("class_name")

    @cached_property
    def by_recipe(self) -> Counts:
        """Counts per recipe digest."""
        return self._by("recipe_digest")

    def _by(self, column: str) -> Counts:
        counts = {kind: Counter(getattr(self, kind)[column].to_pylist()) for kind in KINDS}
        groups = sorted(set().union(*counts.values()))
        return {group: {kind: counts[kind][group] for kind in KINDS} for group in groups}


def difference(before: pa.Table, after: pa.Table) -> Difference:
    """Compare two tables of rows; an image_id stands in each at most once."""
    fresh = pc.invert(pc.is_in(after["image_id"], before["image_id"].combine_chunks()))
    gone = pc.invert(pc.is_in(before["image_id"], after["image_id"].combine_chunks()))
    marks = pa.array(_identities(before), pa.string())
    other = pc.invert(pc.is_in(pa.array(_identities(after), pa.string()), marks))
    return Difference(
        added=after.filter(fresh),
        removed=before.filter(gone),
        changed=after.filter(pc.and_(pa.chunked_array([other]), pc.invert(fresh))),
    )


def parse_semver(text: str) -> Version:
    """Return (major, minor, patch) of 'X.Y.Z'.

    Raises:
        CatalogError: something else.
    """
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise CatalogError(
            f"{text!r} is no semantic version", remedy="Write MAJOR.MINOR.PATCH, such as 1.2.0"
        )
    return (int(match[1]), int(match[2]), int(match[3]))


def semver_text(version: Version) -> str:
    """Return 'X.Y.Z'."""
    return ".".join(map(str, version))


def raised(version: Version, change: Change) -> Version:
    """Return the next version after `version` for a change of this size."""
    major, minor, patch = version
    if change == "major":
        return (major + 1, 0, 0)
    return (major, minor + 1, 0) if change == "minor" else (major, minor, patch + 1)


def _identities(rows: pa.Table) -> list[str]:
    """Return a text per row that is equal for equal rows."""
    columns = (rows[name].to_pylist() for name in _IDENTITY)
    return ["\x00".join(values) for values in zip(*columns, strict=True)]
