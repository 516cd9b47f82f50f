"""What a release is made of: its rows, the files that hold them, and one digest over both."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from catalog.boundary import check_files
from catalog.place import StorageOptions
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
    digests = file_digests(catalog.uri, paths, storage_options=catalog.storage_options)
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


def file_digests(
    uri: str | Path, paths: Sequence[str], *, storage_options: StorageOptions | None = None
) -> Iterator[FileDigest | None]:
    """Yield size and SHA-256 of files below `samples`, in this order; None where there is none.

    Raises:
        CatalogError: the storage cannot be read, or a path does not lie in the table.
    """
    check_files(pa.array(paths, pa.string()), None, f"a release of {str(uri)!r}")
    place = filesystem(uri, "samples", storage_options)
    with reading(uri), ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(lambda path: _digest_of(place, path), paths)


def _digest_of(place: fs.FileSystem, path: str) -> FileDigest | None:
    sha, size = hashlib.sha256(), 0
    try:
        with place.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                sha.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    return FileDigest(path=path, size_bytes=size, sha256=sha.hexdigest())


def _distinct(rows: pa.Table, column: str) -> list[str]:
    return sorted(pc.unique(rows[column].drop_null()).to_pylist())
