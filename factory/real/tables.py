"""Tables of images with paths, CSV or JSON lines: every cell as text, every row accounted for.

CSV is read as spreadsheets write it: UTF-8 or UTF-16, cells between commas, semicolons, tabs or
bars, any line end.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from factory.errors import DataError
from factory.real.columns import (
    Asked,
    Files,
    Roles,
    find_roles,
    ids_as_paths,
    image_of_row,
    other_case,
    required,
)
from factory.real.dataset import Found, NotRead

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Suffixes of the tables that `read_table` reads."""
METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables that lie in a folder of images; the first that is there is read."""
_DELIMITERS = ",;\t|"
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNNAMED = "column without a name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as text: its columns, its rows as (name for errors, values), and what is wrong."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, str]], ...]
    not_read: tuple[NotRead, ...] = ()
    faults: tuple[DataError, ...] = ()


def table_items(path: Path, asked: Asked) -> Iterator[Found]:
    """Yield the images of a CSV or JSON lines table.

    Paths start at the root asked for or at the table's folder.

    Raises:
        DataError: unreadable, or a role without a column. A row of another length, without label
            or path, or of an image that an earlier row names is yielded.
    """
    table = read_table(path)
    if table.faults and not table.rows:
        raise table.faults[0]
    roles = _roles_with_paths(table.columns, asked, str(path))
    yield from table.not_read
    yield from table.faults
    files = Files(root=asked.root or path.parent, asked=asked.root is not None)
    yield from images_of_rows(table.rows, roles, files)


def read_table(path: Path) -> Table:
    """Return a CSV or JSON lines table. Values stay text: "001" is an id, not a number.

    Columns without a name hold row numbers, as pandas writes them: they are not read.

    Raises:
        DataError: unreadable, of an unknown encoding, or no table.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(path)
    text = _text_of(path)
    first = re.match(r"sep=(.)\r?\n", text)  # a line for Excel alone
    text = text[first.end() :] if first else text
    rows = _cells(text, first[1] if first else _delimiter(text), path)
    head = [name.strip() for name in rows[0][1]] if rows else []
    named = [n for n, name in enumerate(head) if name]
    faults, kept = [], []
    for line, cells in rows[1:]:
        where = f"{path} line {line + (1 if first else 0)}"
        if len(cells) < len(head) or any(cells[len(head) :]):
            faults.append(
                DataError(
                    f"{where} has not the {len(head)} cells of the head",
                    remedy="Quote cells that hold commas, or complete the row",
                )
            )
            continue
        kept.append((where, {head[n]: cells[n] for n in named}))
    unnamed = [NotRead(kind=_UNNAMED, name=str(path)) for name in head if not name]
    return Table(
        name=path.name,
        columns=tuple(head[n] for n in named),
        rows=tuple(kept),
        not_read=tuple(unnamed),
        faults=tuple(faults),
    )


def as_text(record: Mapping[str, object]) -> dict[str, str]:
    """Return a row as text, None as ''; the path in an image struct becomes `<column>.path`."""
    values = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            name, value = f"{name}.path", value.get("path")
        values[name] = "" if value is None else str(value)
    return values


def images_of_rows(
    rows: Iterable[tuple[object, Mapping[str, str]]], roles: Roles, files: Files
) -> Iterator[Found]:
    """Yield the images of rows with paths; a file or an id that comes again is an error."""
    by_file: dict[str, str] = {}
    by_id: dict[str, str] = {}
    for where, values in rows:
        row = str(where)
        try:
            image, path_id = files.find(values.get(roles.image or "", ""), row=row)
            mask_cell = values.get(roles.mask or "", "").strip()
            mask = files.find(mask_cell, row=row)[0] if mask_cell else None
            item = image_of_row(
                values, roles, row=row, default_id=path_id, label=None, image=image, mask=mask
            )
            if (first := by_file.setdefault(image.name, row)) != row:
                raise DataError(
                    f"{row} names {values[roles.image or '']} again, after {first}",
                    remedy="Keep one row for each image",
                )
            if roles.id and (first := by_id.setdefault(item.id, row)) != row:
                raise DataError(
                    f"{row} has the id {item.id!r} of {first}",
                    remedy=f"Give every image an id of its own in column {roles.id!r}, or rename"
                    " that column: ids then follow from paths",
                )
        except DataError as error:
            yield error
        else:
            yield item


def _roles_with_paths(columns: Sequence[str], asked: Asked, table: str) -> Roles:
    """Return the roles of a table of text, all that images need among them."""
    roles = ids_as_paths(find_roles(columns, asked, table=table, hints=other_case(columns)))
    required(roles, "image", columns, table=table)
    required(roles, "label", columns, table=table)
    return roles


def _text_of(path: Path) -> str:
    """Return the text of a table, decoded by its byte order mark, else as UTF-8."""
    try:
        data = path.read_bytes()
        encoding = next((e for mark, e in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
        if encoding == "utf-8" and len(data) > 3 and b"\0" in data[:2]:
            encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} cannot be read as a table (line {line} is no UTF-8: {error.reason})",
            remedy="Save it as UTF-8; it may be in Latin-1 or Windows-1252",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read as a table ({error})", remedy="Correct its permissions"
        ) from error


def _cells(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that hold anything, numbered from 1."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as CSV (line {reader.line_num}: {error})",
            remedy="Save it as UTF-8 with commas",
        ) from error


def _delimiter(text: str) -> str:
    """Return what stands between cells: what gives most columns that the first rows all have."""
    best, most = ",", (False, 1)
    for delimiter in _DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            lengths = [len(cells) for cells in islice(rows, 50) if cells]
        except csv.Error:
            continue
        if lengths and (found := (len(set(lengths)) == 1, lengths[0])) > most and lengths[0] > 1:
            best, most = delimiter, found
    return best


def _json_lines(path: Path) -> Table:
    """Return a table of JSON objects, one a line; nested values are not read."""
    columns: dict[str, None] = {}
    nested: dict[str, None] = {}
    rows, faults = [], []
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
            plain = {n: v for n, v in record.items() if not isinstance(v, dict | list)}
        except (ValueError, AttributeError) as error:  # no JSON, or no object
            faults.append(
                DataError(f"{where} is no JSON object ({error})", remedy="Write one {...} a line")
            )
            continue
        nested |= dict.fromkeys(record.keys() - plain.keys())
        columns |= dict.fromkeys(plain)
        rows.append((where, as_text(plain)))
    return Table(
        name=path.name,
        columns=tuple(columns),
        rows=tuple((where, {n: values.get(n, "") for n in columns}) for where, values in rows),
        not_read=tuple(NotRead(kind="nested column", name=f"{path} {name}") for name in nested),
        faults=tuple(faults),
    )
