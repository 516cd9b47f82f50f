"""Filters of a SQL query, handed to the Arrow dataset so that whole files are skipped.

DuckDB 2.0 hands `column < x` to a dataset, but not `column > x` on floating point columns: it
orders NaN above every number and file statistics leave NaN out. Columns with statistics hold no
NaN here (`write_batch` refuses it), so `guidance_scale > 2` may skip files after all. The hook it
takes is DuckDB's own source protocol, which is not public API yet: if it goes, `register` falls
back to plain registration, which is slower and just as right.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.files import Files
from catalog.schema import STATISTICS

try:
    from duckdb._sources.nodes import Binary, Col, In, Lit, Postfix, Unary, Untranslatable
    from duckdb._sources.pyarrow import PyArrowDatasetSource
    from duckdb._sources.to_arrow import to_arrow

    PRUNES = True
except ImportError:  # another DuckDB
    PyArrowDatasetSource = object
    PRUNES = False

_NOT_ABOVE = {">": "<=", ">=": "<"}


class SampleSource(PyArrowDatasetSource):  # type: ignore[misc]
    """The samples as DuckDB scans them; `opened` (files,) marks the files that a scan needed."""

    def __init__(self, files: Files) -> None:
        super().__init__(files.dataset(~files.every()))  # its schema; every scan makes its own
        self.files = files
        self.opened = ~files.every()

    def accepts(self, predicate: Any) -> bool:
        """Whether a scan applies `predicate` exactly, so that DuckDB need not."""
        if not _columns(predicate) <= {"run_id", *STATISTICS}:
            return bool(super().accepts(predicate))
        try:
            to_arrow(_without_nan(predicate), self.declared_schema())
        except Untranslatable:
            return False
        return True

    def stream(self, columns: Any, filters: Any) -> tuple[object, bool]:
        """A reader of `columns` of the rows that pass all `filters`."""
        kept = self.files.every()
        for node in filters:
            kept &= _may_match(self.files, node)
        self.opened |= kept
        scan = PyArrowDatasetSource(self.files.dataset(kept))
        stream: tuple[object, bool] = scan.stream(columns, [_without_nan(n) for n in filters])
        return stream


def register(connection: Any, name: str, files: Files) -> "SampleSource | None":
    """Make `files` a table of the connection; return the source it is scanned through, if any."""
    if not PRUNES or not hasattr(connection, "_register_arrow_source"):
        connection.register(name, files.dataset())
        return None
    source = SampleSource(files)
    connection._register_arrow_source(name, source)
    return source


def _may_match(files: Files, node: Any) -> NDArray[np.bool_]:
    """Return which files may hold a row that satisfies `node`, (files,)."""
    match node:
        case Binary(op="AND", left=left, right=right):
            return _may_match(files, left) & _may_match(files, right)
        case Binary(op="OR", left=left, right=right):
            return _may_match(files, left) | _may_match(files, right)
        case Binary(op=op, left=Col(parts=(name,)), right=Lit(value=value)):
            return files.may(name, op, value)
        case In(operand=Col(parts=(name,)), values=values):
            return files.may_be(name, [literal.value for literal in values])
    return files.every()


def _without_nan(node: Any) -> Any:
    """Return `node` with `column > x` written as NOT `column <= x`, where no NaN can be.

    The two are equal for numbers, and `STATISTICS` columns are never null.
    """
    match node:
        case Binary(op="AND" | "OR" as op, left=left, right=right):
            return Binary(op, _without_nan(left), _without_nan(right))
        case Unary(op="NOT", operand=operand):
            return Unary("NOT", _without_nan(operand))
        case Binary(op=">" | ">=" as op, left=Col(parts=(name,)) as column, right=right) if (
            name in STATISTICS
        ):
            return Unary("NOT", Binary(_NOT_ABOVE[op], column, right))
    return node


def _columns(node: Any) -> set[str]:
    """Return the names of the top-level columns that a predicate reads."""
    match node:
        case Col(parts=parts):
            return {parts[0]}
        case Lit():
            return set()
        case Binary(left=left, right=right):
            return _columns(left) | _columns(right)
        case Unary(operand=operand) | Postfix(operand=operand) | In(operand=operand):
            return _columns(operand)
    return {""}  # unknown: nothing is promised
