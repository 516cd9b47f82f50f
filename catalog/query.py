"""SQL over a catalog: read-only DuckDB on the Arrow datasets of its tables."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from threading import Timer
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catalog.files import Files
from catalog.reviews import names_reviews, views
from catalog.schema import STATISTICS, TABLES
from catalog.store import reading, unreadable
from catalog.table import Catalog
from factory.errors import CatalogError

READING = ("SELECT",)
"""Statement types, as DuckDB names them; WITH, FROM, VALUES, DESCRIBE, SHOW are SELECTs to it.

EXPLAIN is allowed before one of these."""

_SEALED = {
    "enable_external_access": "false",  # no file, network, ATTACH, COPY
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # no Python variables as tables
    "temp_directory": "",  # else it spills into the working folder, access or not
}
_NO_MAPS, _NO_REVIEWS = (TABLES[name].empty_table() for name in ("maps", "reviews"))
_EXPLAIN = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b\s*(ANALYZE\b)?\s*(\([^)]*\))?", re.I | re.S
)


def sql(
    catalog: Catalog,
    text: str,
    limit: int | None = None,
    *,
    timeout_seconds: float | None = None,
    hidden: Sequence[str] = (),
) -> pa.Table:
    """Run one reading statement and return its result.

    Args:
        catalog: the view to read. Tables: `samples`, `runs`, `releases` and `maps` (latest event
            of each), `models`, `evaluations`, `scores`, `release_files`, `tombstones`, `features`
            with each image's place on the map of its space, x and y, and what people said:
            `reviews`, `review_events`, and the column `review` of `samples`, see `catalog.reviews`.
        text: one SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW or EXPLAIN. Columns of one name are
            told apart as in DuckDB: a, a_1.
        limit: at most so many rows.
        timeout_seconds: give up after this, between two pieces of work; `catalog.bounded` keeps to
            time and memory even within one.
        hidden: columns of `samples` that the statement shall not see.

    Raises:
        CatalogError: anything that writes, touches files or settings, does not parse or bind, or
            takes too long.

    Example:
        >>> sql(catalog, "SELECT class_name, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1")
    """
    return _run(catalog, text, limit, timeout_seconds, hidden)[0]


def kept_by(where: str, rows: pa.Table) -> NDArray[np.bool_]:
    """Return (N,) whether an SQL condition holds for each row of a small table; NULL: it does not.

    Raises:
        CatalogError: it is no condition over these columns, or takes longer than 10 s.
    """
    import duckdb

    text = f"SELECT coalesce(({where}\n), false)::BOOLEAN FROM rows"
    _check_reading(text)
    with duckdb.connect(":memory:", config=_SEALED | {"threads": "1"}) as connection:
        connection.register("rows", rows)
        connection.execute("SET lock_configuration = true")
        try:
            with _interrupting(connection, 10):
                found = connection.sql(text).fetchall()
        except duckdb.Error as error:
            what = str(error).splitlines()[0]
            raise CatalogError(
                f"where: {what}",
                remedy=f"Columns are {', '.join(rows.column_names)}, texts but for numbers",
            ) from error
    if len(found) != rows.num_rows:
        raise CatalogError(f"where is more than a condition: {where!r}", remedy="Write one")
    return np.array([kept for (kept,) in found], bool)


def quoted(text: str) -> str:
    """Return `text` as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def files_scanned(catalog: Catalog, text: str) -> tuple[int, int]:
    """Return how many files of `samples` a query opens, and how many there are.

    The others are skipped on the strength of their statistics alone.

    Raises:
        CatalogError: as `sql`.
    """
    opened = _run(catalog, text, None, None)[1]
    every = len(catalog.files("samples"))
    return (every if opened is None else opened), every


def _run(
    catalog: Catalog,
    text: str,
    limit: int | None,
    timeout_seconds: float | None,
    hidden: Sequence[str] = (),
) -> tuple[pa.Table, int | None]:
    """Return the result and the number of files of `samples` opened, None where unknown."""
    import duckdb  # 60 ms that `import catalog` need not pay

    _check_reading(text)
    files = [catalog.files(name) for name in TABLES]
    bounds = {} if timeout_seconds is None else {"threads": "2"}
    with duckdb.connect(":memory:", config=_SEALED | bounds) as connection:
        samples = catalog.files("samples")
        seen = pa.schema([field for field in samples.schema if field.name not in hidden])
        named = text.lower()  # what is long or wants a join: who asks for none does not wait for it
        reviewed = names_reviews(named)
        name = "stored_samples" if reviewed else "samples"
        source = register(connection, name, replace(samples, schema=seen))
        events = catalog.dataset("reviews") if reviewed else _NO_REVIEWS
        connection.register("review_events", events)
        for statement in views(with_samples=reviewed):
            connection.execute(statement)
        connection.register("runs", catalog.runs_latest())
        connection.register("releases", catalog.releases_latest())
        connection.register("release_files", catalog.release_files())
        connection.register("maps", catalog.maps_latest() if "maps" in named else _NO_MAPS)
        for name in ("models", "evaluations", "scores", "tombstones"):
            connection.register(name, catalog.dataset(name))
        connection.register("stored_features", catalog.dataset("features"))
        connection.execute(_features_view(catalog if "features" in named else None))
        connection.execute("SET enable_progress_bar = false")  # it would stand among the results
        connection.execute("SET lock_configuration = true")
        try:
            with reading(catalog.uri, *files), _interrupting(connection, timeout_seconds):
                relation = connection.sql(text)
                result = (relation if limit is None else relation.limit(limit)).to_arrow_table()
        except duckdb.InterruptException as error:
            raise CatalogError(
                f"the query took longer than {timeout_seconds:g} s",
                remedy="Ask for less, or give `factory catalog sql` more time (--timeout)",
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise CatalogError(
                "the query needs more memory than there is for it",
                remedy="Ask for less at a time: fewer columns, a LIMIT, shorter texts",
            ) from error
        except duckdb.Error as error:
            if "reading the stream registered as" in str(error):
                raise unreadable(catalog.uri, error, *files) from error
            raise _explained(error, text) from error
        apart = result.rename_columns(_told_apart(result.column_names))
        return apart, None if source is None else int(source.opened.sum())


def _features_view(catalog: Catalog | None) -> str:
    """Return the statement that makes `features`: the rows stored, and x and y on their map.

    Without a catalog they are null.

    The axes stand in it as numbers: joined to every row they would take longer. Lists that are no
    vector of the space, which others may have written, have no place.
    """
    from catalog.features import maps_of

    maps = {} if catalog is None else maps_of(catalog)

    def along(number: int) -> str:
        cases = [
            f"WHEN space_digest = {quoted(digest)}"
            f" THEN TRY(list_inner_product(features, {axis.tolist()}::FLOAT[]))"
            f" - ({float(found.axes.mean @ axis)!r})::FLOAT"
            for digest, found in maps.items()
            for axis in [found.axes.axes[number]]
        ]
        return f"CASE {' '.join(cases)} END" if cases else "NULL::FLOAT"

    return (
        f"CREATE VIEW features AS SELECT *, {along(0)} AS x, {along(1)} AS y FROM stored_features"
    )


@contextmanager
def _interrupting(connection: Any, seconds: float | None) -> Iterator[None]:
    """Interrupt what the connection runs after so many seconds."""
    if seconds is None:
        yield
        return
    timer = Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return `names` with a number after those that came before."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}_{n}" for n in count(1))
        unique.append(name if name not in unique else next(n for n in numbered if n not in names))
    return unique


def _check_reading(text: str) -> None:
    """Refuse everything but one reading statement, before anything runs.

    Raises:
        CatalogError: no statement, several, a writing one, or bad syntax.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise _explained(error, text) from error
    if len(statements) != 1:
        raise CatalogError(
            f"{len(statements)} SQL statements were given", remedy="Give exactly one SELECT"
        )
    kind = statements[0].type.name
    if kind == "EXPLAIN" and (explains := _EXPLAIN.match(text)):
        _check_reading(text[explains.end() :])  # EXPLAIN ANALYZE runs it
    elif kind not in READING:
        raise CatalogError(
            f"{kind} is not allowed: SQL on a catalog only reads",
            remedy="Use SELECT, WITH, DESCRIBE or EXPLAIN; publish new rows with a run",
        )


def _explained(error: Exception, text: str) -> CatalogError:
    """Return a `CatalogError` with DuckDB's own words and the remedy that fits them."""
    import duckdb

    lines = [line for line in str(error).splitlines() if line.strip()]
    what = re.sub(r"^(\w+ Error: )+", "", lines[0] if lines else type(error).__name__)
    hints = [line.strip() for line in lines[1:] if "bindings" in line or "Did you mean" in line]
    if isinstance(error, duckdb.PermissionException):
        remedy = f"SQL sees the tables {', '.join(TABLES)} and no files or network"
    elif isinstance(error, duckdb.BinderException | duckdb.CatalogException):
        names = ", ".join(TABLES)
        remedy = f"Tables are {names}; see columns with `DESCRIBE samples`"
    else:
        remedy = f"Correct the SQL: {' '.join(text.split())[:200]}"
    return CatalogError(": ".join([what, *hints]), remedy=remedy)


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
    """Make `files` a table of the connection; return the source it is scanned through, if any.

    DuckDB 2.0 hands `column < x` to a dataset, but not `column > x` on floating point columns: it
    orders NaN above every number and file statistics leave NaN out. Columns with statistics hold no
    NaN here (`write_batch` refuses it), so `guidance_scale > 2` may skip files after all. The hook
    it takes is DuckDB's own source protocol, which is not public API yet: if it goes, this falls
    back to plain registration, which is slower and just as right.
    """
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
