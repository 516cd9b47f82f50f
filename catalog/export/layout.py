"""What every format is given and gives back, and the manifest that leads from ids to files."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.export.inert import cell
from catalog.export.pictures import DETAILS, Picture, Pictures
from factory.digest import sha256_hex

MANIFEST = "manifest.csv"
HEAD = ("image_id", "file", "mask_file", "class_name", "class_id", "file_sha256", *DETAILS)
"""Columns of the manifest; `file_sha256` is of the exported image, marks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Where a format writes, what, and how large its shards may grow."""

    folder: Path
    pictures: Pictures
    shard_bytes: int
    boxes_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A picture and the files, relative to the export, that hold it and its mask."""

    picture: Picture
    file: str
    mask_file: str | None = None


def put(folder: Path, name: str, data: bytes) -> str:
    """Write a new file below `folder` and return its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
    return name


def put_pair(task: Task, picture: Picture, image: str, mask: str) -> Written:
    """Write an image and its mask, if it has one, as PNG files of their own."""
    held = picture.mask
    return Written(
        picture=picture,
        file=put(task.folder, image, picture.image),
        mask_file=None if held is None else put(task.folder, mask, held),
    )


def write_manifest(folder: Path, written: Iterable[Written]) -> tuple[int, int]:
    """Write the manifest while a format writes its files; return images and masks.

    Cells are guarded against spreadsheets, see `catalog.export.inert.cell`.
    """
    count = masks = 0
    with (folder / MANIFEST).open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        for row in written:
            writer.writerow(_cells(row))
            count, masks = count + 1, masks + (row.mask_file is not None)
    return count, masks


def described(picture: Picture) -> dict[str, Any]:
    """Return id, class and details of a picture, as JSON knows them."""
    named = {"image_id": picture.image_id, "class_name": picture.class_name}
    plain = {name: _plain(value) for name, value in picture.details.items()}
    return {**named, "class_id": picture.class_id, **plain}


def _cells(row: Written) -> Iterator[str]:
    picture = row.picture
    told = {**described(picture), "file": row.file, "mask_file": row.mask_file or ""}
    told["file_sha256"] = sha256_hex(picture.image)
    for name in HEAD:
        value = told[name]
        if isinstance(value, str):
            yield cell(value)
        else:
            yield "" if value is None else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
