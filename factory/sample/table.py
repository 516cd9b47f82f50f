"""A table of images to draw: a row for each, or for `count` of them, with what is wanted of it.

Columns that mean something everywhere are `class_name`, `prompt`, `guidance_scale`, `seed` and
`count`; the others are attributes: they fill the prompt of the row's class, and travel with every
image that the row asked for. A row is one recipe, its attributes included, so that an image of it
is redrawn from its own row of the catalog alone, and equal tables in any order are one run.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from factory.digest import canonical_json, digest
from factory.errors import DataError
from factory.real.tables import TABLES, as_text, read_table
from factory.sample.columns import sampled

MOST_ROWS = 100_000
MOST_IMAGES = 10**9
MOST_BYTES = 64 * 2**20
"""Of the file."""
MOST_CHARS = 4096
"""Of a prompt, and of the attributes of a row as JSON."""
MOST_NAME_CHARS = 64
OWN = ("class_name", "prompt", "guidance_scale", "seed", "count")
"""Columns that are no attributes."""
OF_THE_RUN = (
    *("model", "lora", "lora_scale", "negative_prompt", "num_inference_steps", "scheduler"),
    *("size_px", "batch_size", "dtype", "num_images"),
)
"""Settings that all rows share: as columns they would change nothing, without a word."""
_LIKE_CLASSES = ("class", "label", "classes")
_PARQUET = (".parquet", ".pq")
_SAMPLED = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one row asks for; None: what the run says of all."""

    where: str
    """File and line, for errors; no part of what is asked."""
    class_name: str | None
    prompt: str | None
    guidance_scale: float | None
    seed: int | None
    count: int
    attributes: Mapping[str, str]

    @property
    def attributes_text(self) -> str | None:
        """The attributes as a recipe records them: canonical JSON; None: there are none."""
        return canonical_json(dict(self.attributes)) if self.attributes else None

    @property
    def asked(self) -> str:
        """Canonical JSON of everything but the number: rows with one text ask for one recipe."""
        own = (self.class_name, self.prompt, self.guidance_scale, self.seed)
        return canonical_json([*own, dict(self.attributes)])


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a table; of those that ask for the same, one with the sum of their counts."""

    name: str
    rows: tuple[Row, ...]
    said: tuple[str, ...] = ()
    """What was not read."""

    @property
    def num_images(self) -> int:
        """Images that all rows ask for."""
        return sum(row.count for row in self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that are asked for, sorted."""
        return tuple(sorted({row.class_name for row in self.rows if row.class_name is not None}))

    @cached_property
    def digest(self) -> str:
        """Names the rows, in whatever order and kind of file they come."""
        return digest(sorted([row.asked, row.count] for row in self.rows))

    def of_classes(self, known: Sequence[str], only: str | None) -> "Table":
        """Return the table with a class in every row: `only`, where it names none.

        Raises:
            DataError: a class that is not among `known`, or none and no `only`.
        """
        rows = []
        for row in self.rows:
            name = row.class_name or only
            if name is None:
                raise DataError(
                    f"{row.where} has no class_name",
                    remedy=f"Write one of {', '.join(known)}" if known else "Write a class",
                )
            if known and name not in known:
                raise DataError(
                    f"{row.where}: class_name {name!r} is not drawn here",
                    remedy=f"Write one of {', '.join(known)}",
                )
            rows.append(replace(row, class_name=name))
        return replace(self, rows=_merged(rows))


def read_rows(path: Path) -> Table:
    """Return the rows of a CSV, JSON lines or Parquet file, or those that a YAML file samples.

    Raises:
        DataError: naming the file, or row, column and value, that cannot be taken.
        ConfigError, CatalogError: see `factory.sample.columns.sampled`.
    """
    if not path.is_file():
        raise DataError(
            f"there is no table at {str(path)!r}",
            remedy=f"Name a file with one of {', '.join((*TABLES, *_PARQUET, *_SAMPLED))}",
        )
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(f"{path} has {size:,} bytes, at most {MOST_BYTES:,} are read", remedy=_LESS)
    columns, found, said = _read(path)
    _check_columns(columns, path)
    if len(found) > MOST_ROWS:
        raise DataError(f"{path} has {len(found):,} rows, at most {MOST_ROWS:,}", remedy=_LESS)
    rows = [_row(where, values) for where, values in found]
    if not rows:
        raise DataError(f"{path} has no row", remedy="Write a row for each image to draw")
    if (total := sum(row.count for row in rows)) > MOST_IMAGES:
        raise DataError(f"{path} asks for {total:,} images", remedy=_LESS)
    return Table(name=path.name, rows=_merged(rows), said=said)


_LESS = "Divide it into several tables, a run each"
_Rows = Sequence[tuple[str, Mapping[str, str]]]


def _read(path: Path) -> tuple[Sequence[str], _Rows, tuple[str, ...]]:
    """Return the columns of a file, its rows with their places, and what was not read."""
    kind = path.suffix.lower()
    if kind in _PARQUET:
        return *_parquet(path), ()
    if kind in _SAMPLED:
        return *sampled(path), ()
    if kind not in TABLES:
        raise DataError(
            f"{path} is no table that is read",
            remedy=f"Save it as one of {', '.join((*TABLES, *_PARQUET, *_SAMPLED))}",
        )
    read = read_table(path)
    if read.faults:
        raise read.faults[0]
    if nested := [skipped for skipped in read.not_read if skipped.kind == "nested column"]:
        raise _nested(nested[0].name)
    said = tuple(f"not read: {skipped.kind} of {skipped.name}" for skipped in read.not_read)
    return read.columns, read.rows, said


def _parquet(path: Path) -> tuple[tuple[str, ...], Sequence[tuple[str, dict[str, str]]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path} has {file.metadata.num_rows:,} rows", remedy=_LESS)
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({error})", remedy="Write it again"
        ) from error
    if nested := [field.name for field in table.schema if pa.types.is_nested(field.type)]:
        raise _nested(f"{path} {nested[0]}")
    rows = [(f"{path} row {n}", as_text(row)) for n, row in enumerate(table.to_pylist(), start=1)]
    return tuple(table.column_names), rows


def _nested(name: str) -> DataError:
    return DataError(
        f"{name} holds lists or objects", remedy="Give each value a column of its own, as text"
    )


def _check_columns(columns: Sequence[str], path: Path) -> None:
    """Refuse columns that would be read otherwise than they are meant.

    Raises:
        DataError: one twice, one too long, or one that is called as a setting of the whole run.
    """
    if twice := [name for name, times in Counter(columns).items() if times > 1]:
        raise DataError(f"{path} has the column {twice[0]!r} twice", remedy="Rename one of them")
    for name in columns:
        if len(name) > MOST_NAME_CHARS:
            raise DataError(
                f"{path}: the column {name[:MOST_NAME_CHARS]!r}... has {len(name)} characters",
                remedy=f"Shorten its name to {MOST_NAME_CHARS}",
            )
        if name in OF_THE_RUN:
            raise DataError(
                f"{path}: column {name!r} is a setting of the whole run, not of a row",
                remedy=f"Leave it out and give --set {name}=..., a run for each value; rows have"
                f" {', '.join(OWN)} and attributes",
            )
    if "class_name" not in columns and (like := [c for c in columns if c in _LIKE_CLASSES]):
        raise DataError(
            f"{path} has no column 'class_name', and one {like[0]!r}",
            remedy="Rename it to class_name",
        )


def _row(where: str, values: Mapping[str, str]) -> Row:
    cells = {name: cell for name, text in values.items() if (cell := text.strip())}
    attributes = {name: cell for name, cell in cells.items() if name not in OWN}
    row = Row(
        where=where,
        class_name=cells.get("class_name"),
        prompt=cells.get("prompt"),
        guidance_scale=_number(where, cells, "guidance_scale", 0, math.inf),
        seed=_whole(where, cells, "seed", 0, 2**63 - 1),
        count=(1 if (count := _whole(where, cells, "count", 1, MOST_IMAGES)) is None else count),
        attributes=attributes,
    )
    if len(row.attributes_text or "") > MOST_CHARS:
        raise DataError(
            f"{where} has {len(row.attributes_text or '')} characters in its attributes, at most"
            f" {MOST_CHARS} travel with an image",
            remedy="Leave out columns that say nothing of the image, or shorten them",
        )
    return row


def _number(
    where: str, cells: Mapping[str, str], name: str, low: float, high: float
) -> float | None:
    """Return the number in a cell; None: it is empty.

    Raises:
        DataError: naming row, column and value.
    """
    if (cell := cells.get(name)) is None:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not (low <= number <= high and math.isfinite(number)):
        raise _no(where, name, cell, f"a number from {low:g}")
    return number


def _whole(where: str, cells: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    if (cell := cells.get(name)) is None:
        return None
    # pandas writes whole numbers beside empty cells as 7.0
    digits = re.fullmatch(r"(\d{1,19})(?:\.0*)?", cell, re.ASCII)
    if digits is None or not low <= int(digits[1]) <= high:
        raise _no(where, name, cell, f"a whole number from {low} to {high}")
    return int(digits[1])


def _no(where: str, name: str, cell: str, wanted: str) -> DataError:
    shown = cell if len(cell) <= 60 else f"{cell[:60]}..."
    return DataError(
        f"{where}: {name} is {shown!r}", remedy=f"Write {wanted}, or leave the cell empty"
    )


def _merged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows of which no two ask for the same, in order of their first."""
    found: dict[str, Row] = {}
    for row in rows:
        first = found.get(row.asked)
        found[row.asked] = row if first is None else replace(first, count=first.count + row.count)
    return tuple(found.values())
