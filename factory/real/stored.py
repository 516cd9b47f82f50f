"""Where a picture's bytes lie, and how to fetch them later: small values that travel to workers."""

import math
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from factory.errors import DataError
from factory.real.images import decode_deep, decode_mask, encode_pnm

MAX_EXPANSION = 200
"""Times that an array of pictures may be larger than its compressed bytes ..."""
SMALL_BYTES = 2**26
"""... unless it is smaller than this: labels of one class are nearly nothing."""


class Stored(Protocol):
    """A place that holds one encoded picture."""

    @property
    def name(self) -> str:
        """What errors call this picture."""
        ...

    def read(self) -> bytes:
        """Return the encoded picture.

        Raises:
            DataError: the place is gone or unreadable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBytes:
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return str(self.path)

    def read(self) -> bytes:
        """Return the file's bytes; `DataError` when it cannot be read."""
        try:
            return self.path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path at all
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"image {self.path} cannot be read ({reason})",
                remedy="Correct the path or the table that names it",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetBytes:
    """A picture in a row of a Parquet file: column of binary, or of struct<bytes, path>."""

    path: Path
    column: str
    row_group: int
    row: int
    """Row within its row group."""

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return f"{self.path} row group {self.row_group} row {self.row}"

    def read(self) -> bytes:
        """Return the cell's bytes, or those of the file that it names instead.

        Raises:
            DataError: file or cell give none.
        """
        value = _parquet_column(self.path, self.row_group, self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            return FileBytes(path=self.path.parent / value["path"]).read()
        if data is None:
            raise DataError(
                f"{self.name} has no bytes in column {self.column!r}",
                remedy="Fill the column or drop the row",
            )
        return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpzBytes:
    """A picture in an array of an `.npz` file, given out as PNM."""

    path: Path
    key: str
    row: int

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return f"{self.path} {self.key}[{self.row}]"

    def read(self) -> bytes:
        """Return the row as PNM; `DataError` when the file gives none."""
        return encode_pnm(npz_array(self.path, self.key)[self.row])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledBytes:
    """A picture of more than 8 bits, scaled by the depth of its whole set and given out as PNM."""

    stored: Stored
    bits: int

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return self.stored.name

    def read(self) -> bytes:
        """Return the picture in 8 bits; `DataError` when it is gone, broken or all but black."""
        return encode_pnm(decode_deep(self.stored.read(), name=self.name, bits=self.bits))


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedMasks:
    """The objects of one image, each in a mask of its own, given out as one PNM.

    A pixel has the greatest of its values.
    """

    parts: tuple[Stored, ...]

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return f"{self.parts[0].name} and {len(self.parts) - 1} more"

    def read(self) -> bytes:
        """Return the masks as one; `DataError` when one is gone or broken, or of another size."""
        joined = decode_mask(self.parts[0].read(), name=self.parts[0].name)
        for part in self.parts[1:]:
            mask = decode_mask(part.read(), name=part.name, size_px=joined.shape[::-1])
            joined = np.maximum(joined, mask)
        return encode_pnm(joined)


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineBytes:
    """A picture held in memory."""

    name: str
    data: bytes

    def read(self) -> bytes:
        """Return the bytes."""
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A picture that a table names and that cannot be there: reading it says why."""

    name: str
    what: str
    remedy: str

    def read(self) -> bytes:
        """Raise `DataError`."""
        raise DataError(self.what, remedy=self.remedy)


@lru_cache(maxsize=4)
def npz_array(path: Path, key: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Return one array of an `.npz` file; the last four stay in memory.

    Raises:
        DataError: no such file or array, broken, or pickled; more than the file can hold.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            _check_expansion(arrays.zip, key, path)
            return np.asarray(arrays[key])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} gives no array {key!r} ({error})",
            remedy="Use an .npz of plain uint8 arrays in MedMNIST's layout",
        ) from error


def _check_expansion(archive: zipfile.ZipFile, key: str, path: Path) -> None:
    """Refuse an array that claims more bytes than are stored, or that swells beyond any picture.

    numpy makes room for what an array's head claims before it reads a byte.
    """
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as file:
        version = read_magic(file)
        read_head = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
        shape, _, kind = read_head(file)
        claimed = file.tell() + math.prod(shape) * kind.itemsize
    if claimed > member.file_size or member.file_size > max(
        MAX_EXPANSION * member.compress_size, SMALL_BYTES
    ):
        raise DataError(
            f"{path} array {key!r} claims {claimed:,} bytes, {member.file_size:,} unpacked from"
            f" {member.compress_size:,}",
            remedy=f"Images shrink less than {MAX_EXPANSION} times: get the file anew",
        )


@lru_cache(maxsize=8)
def _parquet_column(path: Path, row_group: int, column: str) -> pa.ChunkedArray:
    """Return one column of one row group: what reading its rows one after another needs."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(row_group, columns=[column]).column(column)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({error})", remedy="Restore the file, or open the set again"
        ) from error
