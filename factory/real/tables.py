"""Tables of images: CSV with paths, Parquet with paths or with the bytes themselves."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from factory.errors import DataError
from factory.real.columns import Asked, Roles, find_roles, id_of_path, image_of_row, required
from factory.real.dataset import RealImage
from factory.real.stored import FileBytes, ParquetBytes, Stored


def csv_items(path: Path, asked: Asked) -> Iterator[RealImage]:
    """Yield the images of a CSV table; paths start at the root asked for or the table's folder.

    Raises:
        DataError: unreadable, a role without a column, a row of another length, no label or path.
    """
    columns, rows = read_csv(path)
    roles = find_roles(columns, asked, table=str(path))
    required(roles, "image", columns, table=str(path))
    required(roles, "label", columns, table=str(path))
    for row, values in rows:
        yield _item_with_path(values, roles, row=row, root=asked.root or path.parent)


def read_csv(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return a CSV table's column names and its rows as (name for errors, values).

    Values stay text: "001" is an id, not a number.

    Raises:
        DataError: unreadable, not UTF-8, or a row of another length than the head.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = [(f"{path} line {reader.line_num}", values) for values in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error})", remedy="Save it as UTF-8 with commas"
        ) from error
    for name, values in rows:
        if None in values or None in values.values():
            raise DataError(
                f"{name} has not the {len(columns)} cells of the head",
                remedy="Quote cells that hold commas, or complete the row",
            )
    return columns, rows


def parquet_items(paths: Sequence[Path], asked: Asked) -> Iterator[RealImage]:
    """Yield the images of Parquet files; the bytes stay there until they are asked for.

    The image (and mask) column holds encoded bytes, struct<bytes, path> (the Hugging Face `Image`
    layout) or a path relative to the file's folder. An image without id column or path is called
    by its number over all files.

    Raises:
        DataError: unreadable, a role without a column, a column of another type, no label.
    """
    number = 0
    for path in paths:
        for item in _parquet_file_items(path, asked, number):
            yield item
            number += 1


def _parquet_file_items(path: Path, asked: Asked, number: int) -> Iterator[RealImage]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no readable Parquet file ({error})", remedy=_RESTORE) from error
    with file:
        schema = file.schema_arrow
        roles = find_roles(schema.names, asked, table=str(path))
        image = required(roles, "image", schema.names, table=str(path))
        required(roles, "label", schema.names, table=str(path))
        pictures = [name for name in (image, roles.mask) if name is not None]
        text = _text_columns(schema, pictures)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=text)
            for row, record in enumerate(table.to_pylist()):
                values = _flat(record)
                where = f"{path} row group {group} row {row}"
                if pt.is_string(schema.field(image).type):
                    yield _item_with_path(values, roles, row=where, root=asked.root or path.parent)
                    continue
                stored = [
                    ParquetBytes(path=path, column=name, row_group=group, row=row)
                    for name in pictures
                ]
                file_name = values.get(f"{image}.path")
                yield image_of_row(
                    values,
                    roles,
                    row=where,
                    default_id=id_of_path(Path(file_name or "")) or f"{number + row:08d}",
                    label=None,
                    image=stored[0],
                    mask=stored[1] if len(stored) > 1 else None,
                )
            number += table.num_rows


def _text_columns(schema: pa.Schema, pictures: Sequence[str]) -> list[str]:
    """Return the columns worth reading at once: everything but encoded pictures and nested ones."""
    names = []
    for column in schema:
        kind = column.type
        if column.name in pictures and pt.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            names += [f"{column.name}.path"] if kind.get_field_index("path") >= 0 else []
        elif column.name in pictures and not (pt.is_string(kind) or _is_bytes(kind)):
            raise DataError(
                f"column {column.name!r} is {kind}, no image",
                remedy="Store paths, encoded bytes or struct<bytes, path>",
            )
        elif not (pt.is_nested(kind) or _is_bytes(kind)):
            names.append(column.name)
    return names


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _flat(record: Mapping[str, object]) -> dict[str, str]:
    """Return a row as text; the path inside an image struct becomes `<column>.path`."""
    values = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            name, value = f"{name}.path", value.get("path")
        values[name] = "" if value is None else str(value)
    return values


def _item_with_path(values: Mapping[str, str], roles: Roles, *, row: str, root: Path) -> RealImage:
    path = values.get(roles.image or "")
    if not path or not id_of_path(Path(path)):
        raise DataError(f"{row} names no image", remedy="Fill the path or drop the row")
    mask_path = values.get(roles.mask) if roles.mask else None
    mask: Stored | None = FileBytes(path=root / mask_path) if mask_path else None
    return image_of_row(
        values,
        roles,
        row=row,
        default_id=id_of_path(Path(path)),
        label=None,
        image=FileBytes(path=root / path),
        mask=mask,
    )


_RESTORE = "Restore the file or write it again"
