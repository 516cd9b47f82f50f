"""One batch of samples becomes one Parquet file, named after its contents."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.boundary import check_run_id
from catalog.place import Where
from catalog.schema import ACCEPTED, REJECTED, SAMPLES, SELDOM, STATISTICS
from catalog.store import put
from factory.digest import canonical_json, digest_bytes
from factory.errors import CatalogError

_NAME = re.compile(r"batch-(\d{8,10})-[0-9a-f]{16}\.parquet")
_PIXELS = ("image.bytes", "mask.bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFile:
    """A written batch, not yet published. Plain data: `BatchFile(**asdict(file))` gives it back.

    `path` is relative to the table, `stats` is the Delta statistics (JSON), `rejected_by_gate` is
    JSON {gate: images}: an image that two gates reject counts under both. `by_class` is JSON
    {class: {drawn, accepted, rejected: {gate: [images, least score, greatest score]}}}.
    """

    path: str
    size_bytes: int
    num_rows: int
    run_id: str
    batch_index: int
    stats: str
    num_accepted: int
    num_rejected: int
    rejected_by_gate: str
    pixel_bytes: int
    by_class: str = "{}"


def write_batch(
    place: Where,
    *,
    run_id: str,
    batch_index: int,
    rows: pa.Table,
) -> BatchFile:
    """Write `rows`, one batch, to a file of the samples table, without publishing it.

    Runs in a worker process; `SampleSink.commit` publishes. Equal rows give equal bytes under an
    equal name, so writing again, from anywhere, changes nothing. Columns may come in any order;
    missing nullable columns become null; `run_id` and `batch_index` may be left out.

    Raises:
        CatalogError: rows that are no batch of samples, or the place cannot be written.
    """
    check_run_id(run_id)
    table = as_samples(rows, run_id=run_id, batch_index=batch_index)
    unwritten = [name for name in SELDOM if table[name].null_count == len(table)]
    data = parquet_bytes(table.drop_columns(["run_id", *unwritten]))
    path = f"run_id={run_id}/batch-{batch_index:08d}-{digest_bytes(data)[:16]}.parquet"
    put(place, "samples", path, data)
    accepted = pc.sum(pc.equal(table["gate_status"], ACCEPTED)).as_py()
    return BatchFile(
        path=path,
        size_bytes=len(data),
        num_rows=len(table),
        run_id=run_id,
        batch_index=batch_index,
        stats=file_statistics(table, STATISTICS),
        num_accepted=accepted,
        num_rejected=len(table) - accepted,
        rejected_by_gate=canonical_json(_rejections(table)),
        pixel_bytes=sum(_byte_lengths(table[column]) for column in ("image", "mask")),
        by_class=canonical_json(_by_class(table)),
    )


def batch_index_of(path: str) -> int | None:
    """Return the batch that the file at `path` holds, or None if the name does not say."""
    match = _NAME.fullmatch(path.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


def as_samples(rows: pa.Table, *, run_id: str, batch_index: int) -> pa.Table:
    """Return `rows` in the schema `SAMPLES`, after checking that they are one batch of samples.

    Raises:
        CatalogError: naming the batch, the column and the offending value.
    """
    where = f"batch {batch_index} of {run_id}"
    if not 0 <= batch_index < 2**31:
        _refuse(where, f"the batch index {batch_index} is out of range")
    if len(rows) == 0:
        _refuse(where, "it has no rows")
    for name, value in (("run_id", run_id), ("batch_index", batch_index)):
        if name not in rows.column_names:
            kind = SAMPLES.field(name).type
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), len(rows)))
        elif other := [held for held in rows[name].to_pylist() if held != value]:
            _refuse(where, f"column {name!r} holds {other[:1]}")
    table = cast_rows(rows, SAMPLES, where=where)
    _check_values(table, where)
    return table


def cast_rows(rows: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return `rows` in `schema`: columns in its order, missing nullable ones null.

    Raises:
        CatalogError: an unknown column, a missing or null required one, or a wrong type.
    """
    unknown = sorted(set(rows.column_names) - set(schema.names))
    if unknown or len(set(rows.column_names)) < len(rows.column_names):
        _refuse(where, f"unknown or repeated columns {unknown or rows.column_names}")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            if not field.nullable:
                _refuse(where, f"column {field.name!r} is missing")
            columns.append(pa.nulls(len(rows), field.type))
            continue
        column = rows[field.name]
        if not field.nullable and column.null_count:
            _refuse(where, f"column {field.name!r} holds null")
        try:
            columns.append(column.cast(field.type).combine_chunks())
        except (pa.ArrowException, TypeError) as error:
            _refuse(where, f"column {field.name!r} is {column.type}, not {field.type} ({error})")
    return pa.table(columns, schema=schema)


def parquet_bytes(table: pa.Table, *, row_group_rows: int | None = None) -> bytes:
    """Return `table` as Parquet: PNG bytes as they are, everything else zstd; one row group.

    Pages carry checksums: a byte that flips on a disk is an error, not another class.
    """
    leaves = [leaf for field in table.schema for leaf in _leaf_paths(field.name, field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_rows or len(table),
        compression={leaf: "NONE" if leaf in _PIXELS else "ZSTD" for leaf in leaves},
        use_dictionary=[leaf for leaf in leaves if leaf not in _PIXELS],
        write_statistics=[leaf for leaf in leaves if leaf not in _PIXELS],
        write_page_checksum=True,
        store_schema=False,
    )
    return bytes(sink.getvalue())


def file_statistics(table: pa.Table, columns: tuple[str, ...]) -> str:
    """Return Delta statistics (JSON) of the never-null `columns`: minima, maxima, null counts."""
    bounds = {name: pc.min_max(table[name]).as_py() for name in columns}
    return json.dumps(
        {
            "numRecords": len(table),
            "minValues": {name: _bound(pair["min"]) for name, pair in bounds.items()},
            "maxValues": {name: _bound(pair["max"], up=True) for name, pair in bounds.items()},
            "nullCount": {name: table[name].null_count for name in columns},
        },
        allow_nan=False,
    )


def _bound(value: object, *, up: bool = False) -> object:
    """Return a bound as JSON; times at milliseconds, the protocol's unit, rounded outwards."""
    if not isinstance(value, datetime):
        return value
    if up and value.microsecond % 1000:
        value += timedelta(milliseconds=1)
    return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"


def _check_values(table: pa.Table, where: str) -> None:
    """Refuse rows that break a promise of the schema's comments."""
    if len(table["image_id"].unique()) < len(table):
        _refuse(where, "an image_id stands in it twice")
    for name in STATISTICS:
        if pa.types.is_floating(table.schema.field(name).type):
            odd = [value for value in table[name].to_pylist() if not math.isfinite(value)]
            if odd:  # statistics cannot hold it, and would lose rows
                _refuse(where, f"column {name!r} holds {odd[0]}")
    for image_id, status, reasons, path, size in zip(
        *(table[name].to_pylist() for name in ("image_id", "gate_status", "gate_reasons")),
        pc.struct_field(table["image"], "path").to_pylist(),
        pc.binary_length(pc.struct_field(table["image"], "bytes")).to_pylist(),
        strict=True,
    ):
        if path != f"{image_id}.png" or not size:
            _refuse(where, f"image of {image_id} has the path {path!r} and {size} bytes")
        if status not in (ACCEPTED, REJECTED):
            _refuse(where, f"gate_status of {image_id} is {status!r}")
        if (status == REJECTED) != bool(reasons):
            _refuse(where, f"{image_id} is {status!r} with the gate_reasons {reasons}")


def _rejections(table: pa.Table) -> Mapping[str, int]:
    """Return how many images each gate rejected; a reason reads 'gate: why'."""
    return Counter(
        gate
        for reasons in table["gate_reasons"].to_pylist()
        for gate in {reason.split(":")[0] for reason in reasons}
    )


def _by_class(table: pa.Table) -> Mapping[str, object]:
    """Return what each class lost to which gate, see `BatchFile`."""
    scores = [name for name in table.column_names if name.endswith("_score")]
    found: dict[str, dict[str, Any]] = {}
    for row in table.select(["class_name", "gate_reasons", *scores]).to_pylist():
        own = found.setdefault(row["class_name"], {"drawn": 0, "accepted": 0, "rejected": {}})
        own["drawn"] += 1
        own["accepted"] += not row["gate_reasons"]
        for gate in {reason.split(":")[0] for reason in row["gate_reasons"]}:
            score = row.get(f"{gate}_score") or 0.0
            images, least, greatest = own["rejected"].get(gate, (0, score, score))
            own["rejected"][gate] = (images + 1, min(least, score), max(greatest, score))
    return found


def _byte_lengths(pngs: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(pc.struct_field(pngs, "bytes"))).as_py() or 0


def _leaf_paths(path: str, kind: pa.DataType) -> list[str]:
    """Return the Parquet column paths of a field: 'image.bytes', 'soft_label.list.element'."""
    if pa.types.is_struct(kind):
        return [leaf for f in kind for leaf in _leaf_paths(f"{path}.{f.name}", f.type)]
    if pa.types.is_list(kind):
        return _leaf_paths(f"{path}.list.{kind.value_field.name}", kind.value_type)
    return [path]


def _refuse(where: str, what: str) -> NoReturn:
    raise CatalogError(
        f"{where} cannot be published: {what}",
        remedy="Give rows as catalog/schema.py describes them, a whole batch at a time",
    )
