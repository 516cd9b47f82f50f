"""Tables for people and for programs: as a drawn table, as JSON, as CSV."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import pyarrow as pa
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from factory.terminal import escaped, one_line

CELL_CHARS = 60
"""Longer values are cut in drawn tables of more than two columns, never in JSON or CSV."""
COLUMN_CHARS = 12
"""Columns that would get less than this, and need it, are drawn below each other instead."""


def as_rich(table: pa.Table, *, width: int = 200) -> Table:
    """Return a drawn table: a line per row, or one per value where `width` characters are too few.

    Bytes read '<1234 bytes>', long values are cut. A text keeps its own lines where it is of the
    only row, as a plan or a card: among others it would look like several.
    """
    told = _text if len(table) == 1 else text
    longest = CELL_CHARS if table.num_columns > 2 else None
    columns = [
        [_short(value, longest, told) for value in column.to_pylist(maps_as_pydicts="lossy")]
        for column in table.columns
    ]
    needed = [
        max(map(cell_len, (name, *cells)))
        for name, cells in zip(table.column_names, columns, strict=True)
    ]
    if sum(min(chars, COLUMN_CHARS) + 2 for chars in needed) > width:
        return _records(table.column_names, columns)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        justify: Literal["left", "right"] = "right" if number else "left"
        drawn.add_column(Text(one_line(field.name)), justify=justify, overflow="fold")
    for row in zip(*columns, strict=True):
        drawn.add_row(*map(Text, row))
    return drawn


def _records(names: Sequence[str], columns: Sequence[Sequence[str]]) -> Table:
    """Return a table of names and values, row below row."""
    drawn = Table("column", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in zip(*columns, strict=True):
        for name, value in zip(names, row, strict=True):
            drawn.add_row(Text(one_line(name)), Text(value, overflow="fold"))
        drawn.add_section()
    return drawn


def as_json(table: pa.Table) -> str:
    """Return a JSON list of objects, a line per row; bytes read '<1234 bytes>', NaN null."""
    lines = [
        json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in table.to_pylist()
    ]
    return "[" + ",\n ".join(lines) + "]"


def as_csv(table: pa.Table) -> str:
    r"""Return CSV with a header; nested values are JSON, bytes read '<1234 bytes>'.

    Control characters are written as \u001b; JSON is exact.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow("" if value is None else escaped(_text(value)) for value in row.values())
    return buffer.getvalue().rstrip("\n")


def text(value: object) -> str:
    """Return one value as one line of text: JSON where it is nested."""
    return one_line(_text(value))


def _text(value: object) -> str:
    simple = value if isinstance(value, float) else plain(value)
    nested = isinstance(simple, dict | list)
    return json.dumps(simple, ensure_ascii=False) if nested else str(simple)


def _short(value: object, longest: int | None, told: Callable[[object], str]) -> str:
    number = isinstance(value, float) and math.isfinite(value)
    whole = "" if value is None else f"{value:.6g}" if number else told(value)
    cut = longest is not None and len(whole) > longest
    return f"{whole[: longest - 1]}…" if longest is not None and cut else whole


def plain(value: object) -> object:
    """Return `value` as JSON knows it: NaN and infinity are null."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
