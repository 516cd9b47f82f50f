"""What every format is given and gives back: texts made harmless, pictures, files, a manifest."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.boundary import file_names
from catalog.export.facts import Facts
from catalog.export.marking import Marking
from catalog.selection import Selection
from factory.digest import sha256_hex

_MARKUP = re.compile(
    r"(?<=[0-9])\.(?=[0-9])|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])"  # 1.5 and a_b mean nothing as such
    r"|([^\w ,;()-]|_)"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def inert(text: object, *, longest: int = 200) -> str:
    """Return `text` for a Markdown or HTML page: it shows as it is and means nothing.

    Every character that could begin markup becomes a numeric entity, which Markdown takes for text
    wherever it stands. White space and control characters become single spaces.
    """
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    cut = flat if len(flat) <= longest else f"{flat[: longest - 1]}…"
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};" if found[1] else found[0], cut)


def cell(text: str) -> str:
    """Return `text` for a CSV cell: a spreadsheet takes it for text, not for a formula.

    Texts that begin like a formula, or with an apostrophe, get an apostrophe before them; taking
    the first apostrophe away gives every text back.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


DETAILS = (
    *("prompt", "negative_prompt", "method", "model_id", "recipe_digest", "recipe_index"),
    *("run_id", "seed", "guidance_scale", "num_inference_steps", "scheduler", "gate_status"),
    *("height_px", "width_px", "pixel_sha256", "soft_label", "class_names", "is_synthetic"),
    *("pixel_size_um", "crop", "attributes"),
)
"""Columns of `samples` that leave beside id, class, image and mask. `pixel_sha256` is of the pixels
as they were drawn: a watermark changes them."""

_READ_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as a format writes it.

    `name` and `folder` are safe file names of its id and its class; `image` and `mask` are PNG.
    """

    image_id: str
    class_name: str
    class_id: int
    name: str
    folder: str
    image: bytes
    mask: bytes | None
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a selection, as often as they are asked for; one batch is in memory."""

    selection: Selection
    facts: Facts
    marking: Marking
    names: dict[str, str] = field(init=False)
    folders: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", file_names(self.selection.image_ids))
        object.__setattr__(self, "folders", file_names(self.facts.class_names))

    def __iter__(self) -> Iterator[Picture]:
        position = {name: number for number, name in enumerate(self.facts.class_names)}
        columns = ["image_id", "class_name", "image", "mask", *DETAILS]
        for batch in self.selection.batches(columns, batch_size=_READ_AT_ONCE):
            for row in batch.to_pylist():
                image_id, class_name = row["image_id"], row["class_name"]
                yield Picture(
                    image_id=image_id,
                    class_name=class_name,
                    class_id=position[class_name],
                    name=self.names[image_id],
                    folder=self.folders[class_name],
                    image=self.marking.marked(row["image"]["bytes"], image_id),
                    mask=None if row["mask"] is None else row["mask"]["bytes"],
                    details={name: row[name] for name in DETAILS},
                )

    @cached_property
    def have_masks(self) -> bool:
        """Whether any image has a mask."""
        return any(mask is not None for _, mask in self.masks())

    def masks(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield (image_id, mask) of every image."""
        for batch in self.selection.batches(["image_id", "mask"], batch_size=_READ_AT_ONCE):
            for row in batch.to_pylist():
                yield row["image_id"], None if row["mask"] is None else row["mask"]["bytes"]


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

    Cells are guarded against spreadsheets, see `cell`.
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
