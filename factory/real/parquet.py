"""Parquet files of images, as Arrow, Polars, Delta and Hugging Face `datasets` write them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from factory.errors import DataError
from factory.real.columns import (
    Asked,
    Files,
    Roles,
    find_roles,
    id_of_path,
    image_of_row,
    other_case,
    required,
)
from factory.real.dataset import Found, NotRead, RealImage
from factory.real.npz import PART_ATTRIBUTE
from factory.real.stored import ParquetBytes, Stored
from factory.real.tables import as_text, images_of_rows

SPLIT = re.compile(r"(train|validation|valid|val|test)([-_.]\d+.*)?", re.IGNORECASE)
"""How the hub calls the Parquet files of a part: train-00000-of-00002.parquet."""
_RESTORE = "Restore the file or write it again"


def part_of(path: PurePath) -> str:
    """Return the part of a set that a Parquet file holds by its name or its folder's, or ''."""
    match = SPLIT.fullmatch(path.stem) or SPLIT.fullmatch(path.parent.name)
    return match[1].lower() if match else ""


def hub_files(tables: Sequence[PurePath]) -> dict[PurePath, list[PurePath]]:
    """Return Parquet files of parts (train, test, ...) by configuration, as the hub has folders.

    A configuration is the folder that holds the files of the parts, or a folder for each part.
    """
    found: dict[PurePath, list[PurePath]] = {}
    for path in tables:
        if part_of(path):
            by_name = SPLIT.fullmatch(path.stem)
            found.setdefault(path.parent if by_name else path.parent.parent, []).append(path)
    return found


def parquet_items(paths: Sequence[Path], asked: Asked) -> Iterator[Found]:
    """Yield the images of Parquet files; the bytes stay there until they are asked for.

    The image (and mask) column holds encoded bytes, struct<bytes, path> (the Hugging Face `Image`
    layout) or a path relative to the file's folder. Numbers of a `ClassLabel` become its names.
    An image is called by its id column, else by its path where no two have the same, else by its
    number over all files. Files of several parts of a set keep the part as an attribute.

    Raises:
        DataError: unreadable, a role without a column, or a column of another type. A row without
            label or path, or of an image that an earlier row names is yielded.
    """
    several = len({part_of(path) for path in paths} - {""}) > 1
    passed: set[str] = set()
    listed: list[_Numbered] = []
    number = 0
    for path in paths:
        with _opened(path) as file:
            columns = Columns.of(file.schema_arrow, asked, str(path))
            for name, kind in columns.not_read.items():
                if name not in passed:
                    yield NotRead(kind=f"{kind} column", name=f"{path} {name}")
            passed |= set(columns.not_read)
            part = {PART_ATTRIBUTE: part_of(path)} if several and part_of(path) else {}
            rows = [(where, {**row, **part}) for where, row in _rows(file, path, columns)]
        roles = columns.roles
        if part and asked.attributes is None:
            roles = replace(roles, attributes=(*roles.attributes, PART_ATTRIBUTE))
        files = Files(root=asked.root or path.parent, asked=asked.root is not None)
        if columns.has_paths:
            yield from images_of_rows(rows, roles, files)
            continue
        for where, values in rows:
            found = _row_with_bytes(values, roles, where, files, number)
            number += 1
            if isinstance(found, DataError):
                yield found
            else:
                listed.append(found)
    yield from _called(listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a Parquet file: their roles, what is read at once, what is not read.

    `class_names` are those of each ClassLabel, by number.
    """

    roles: Roles
    text: tuple[str, ...]
    has_paths: bool
    class_names: Mapping[str, Sequence[str]]
    not_read: Mapping[str, str]

    @classmethod
    def of(cls, schema: pa.Schema, asked: Asked, table: str) -> "Columns":
        """Return the roles of a schema's columns.

        Raises:
            DataError: a role without a column, or a column of pictures that can hold none.
        """
        features = _features(schema)
        hints = {**other_case(schema.names), **_only_of(features, schema.names)}
        roles = find_roles(schema.names, asked, table=table, hints=hints)
        image = required(roles, "image", schema.names, table=table)
        required(roles, "label", schema.names, table=table)
        text, not_read = _readable(schema, [image, *([roles.mask] if roles.mask else [])])
        return cls(
            roles=roles,
            text=tuple(text),
            has_paths=_is_text(schema.field(image).type),
            class_names={
                name: [str(each) for each in feature["names"]]
                for name, feature in features.items()
                if name in text and isinstance(feature.get("names"), list)
            },
            not_read=not_read,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """A row of a Parquet file; `has_mask`: an encoded one, in the row."""

    path: Path
    row_group: int
    row: int
    has_mask: bool

    def __str__(self) -> str:
        return f"{self.path} row group {self.row_group} row {self.row}"

    def picture(self, column: str) -> ParquetBytes:
        """Return the encoded picture in a column of this row."""
        return ParquetBytes(path=self.path, column=column, row_group=self.row_group, row=self.row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbered:
    """An image of a Parquet row, with all that it may be called by."""

    item: RealImage
    own_id: str
    path_id: str
    number: int


def _row_with_bytes(
    values: Mapping[str, str], roles: Roles, where: _Where, files: Files, number: int
) -> _Numbered | DataError:
    mask: Stored | None = None
    try:
        if roles.mask and where.has_mask:
            mask = where.picture(roles.mask)
        elif roles.mask and values.get(roles.mask):
            mask = files.find(values[roles.mask], row=str(where))[0]
        item = image_of_row(
            values,
            roles,
            row=str(where),
            default_id="",
            label=None,
            image=where.picture(roles.image or ""),
            mask=mask,
        )
    except DataError as error:
        return error
    path_id = id_of_path(PurePosixPath(values.get(f"{roles.image}.path", "").replace("\\", "/")))
    return _Numbered(item=item, own_id=item.id, path_id=path_id, number=number)


def _called(listed: Iterable[_Numbered]) -> Iterator[RealImage]:
    """Yield the images by their own ids, else by path where no two share it, else by number."""
    listed = list(listed)
    shared = Counter(each.path_id for each in listed if not each.own_id)
    by_path = all(count == 1 for path_id, count in shared.items() if path_id)
    for each in listed:
        default = each.path_id if by_path else ""
        yield replace(each.item, id=each.own_id or default or f"{each.number:08d}")


def _rows(
    file: pq.ParquetFile, path: Path, columns: Columns
) -> Iterator[tuple[_Where, dict[str, str]]]:
    """Yield the rows as text, without pictures."""
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=list(columns.text))
        masks = _filled(file, group, columns.roles.mask)
        for row, record in enumerate(table.to_pylist()):
            values = as_text(record)
            for name, names in columns.class_names.items():
                if values[name].lstrip("-").isdecimal():
                    number = int(values[name])
                    values[name] = names[number] if 0 <= number < len(names) else ""
            has_mask = bool(masks) and masks[row]
            yield _Where(path=path, row_group=group, row=row, has_mask=has_mask), values


def _filled(file: pq.ParquetFile, group: int, column: str | None) -> list[bool]:
    """Return which rows hold an encoded picture in `column`; empty where it can hold none."""
    if column is None or _is_text(file.schema_arrow.field(column).type):
        return []
    values = file.read_row_group(group, columns=[column]).column(column).combine_chunks()
    if not pt.is_struct(values.type):
        return [bool(known) for known in values.is_valid().to_pylist()]
    inside = [values.field(i).is_valid().to_pylist() for i in range(values.type.num_fields)]
    whole = values.is_valid().to_pylist()
    return [bool(known) and any(parts) for known, *parts in zip(whole, *inside, strict=True)]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no readable Parquet file ({error})", remedy=_RESTORE) from error
    with file:
        yield file


def _readable(schema: pa.Schema, pictures: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the columns worth reading at once, and the kinds of those that are no text.

    Encoded pictures are read later, nested and binary columns not at all.
    """
    names: list[str] = []
    not_read = {}
    for column in schema:
        kind = column.type
        if column.name in pictures and pt.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            names += [f"{column.name}.path"] if kind.get_field_index("path") >= 0 else []
        elif column.name in pictures and not (_is_text(kind) or _is_bytes(kind)):
            raise DataError(
                f"column {column.name!r} is {kind}, no image",
                remedy="Store paths, encoded bytes or struct<bytes, path>",
            )
        elif not (pt.is_nested(kind) or _is_bytes(kind)):
            names.append(column.name)
        elif column.name not in pictures:
            not_read[column.name] = "nested" if pt.is_nested(kind) else "binary"
    return names, not_read


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    sized = pt.is_fixed_size_binary(kind) or pt.is_binary(kind)
    return bool(sized or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what Hugging Face `datasets` declares of each column, empty where it does not."""
    told = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(told)["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _only_of(features: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Return the image and the label column where just one is declared as such."""
    found = {}
    for role, kind in (("image", "Image"), ("label", "ClassLabel")):
        of_kind = [n for n in columns if features.get(n, {}).get("_type") == kind]
        if len(of_kind) == 1:
            found[role] = of_kind[0]
    return found
