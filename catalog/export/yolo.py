"""YOLO: a line per object beside every image, as an outline or as a box, and `data.yaml`.

Outlines run along pixel edges and lose nothing but holes, which the format cannot tell; the masks
lie beside, lossless. `data.yaml` has no `path`, so readers look beside the file, wherever they are
started from (`path: .` would mean their own folder of data sets). They refuse a file without `val`:
the drawn images stand there, until real ones take their place, on which a model is to be tested.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from catalog.export.layout import Task, Written, put, put_pair
from catalog.export.objects import Object, kinds_of, objects_of
from catalog.export.pictures import Picture

_PARTS = """\
# These images are drawn: scores on them say nothing. Put the folder of your real images here:
val: images/train
train: images/train
"""


def write(task: Task) -> Iterator[Written]:
    """Write `images/train/ID.png`, `labels/train/ID.txt`, `masks/train/ID.png`, `data.yaml`.

    Raises:
        CatalogError: see `kinds_of`.
    """
    kinds = kinds_of(task.pictures)
    _write_data(task.folder, kinds.names)
    for picture in task.pictures:
        lines = [
            f"{kinds.of(picture, found.value)} {_numbers(found, picture, boxes=task.boxes_only)}\n"
            for found in objects_of(picture)
        ]
        put(task.folder, f"labels/train/{picture.name}.txt", "".join(lines).encode())
        name = f"train/{picture.name}.png"
        yield put_pair(task, picture, f"images/{name}", f"masks/{name}")


def _write_data(folder: Path, names: tuple[str, ...]) -> None:
    names_only = yaml.safe_dump({"names": dict(enumerate(names))}, sort_keys=False)
    put(folder, "data.yaml", f"{_PARTS}{names_only}".encode())


def _numbers(found: Object, picture: Picture, *, boxes: bool) -> str:
    """Return box (centre and size) or outline as shares of width and height."""
    height, width = picture.details["height_px"], picture.details["width_px"]
    points = found.outline()
    if boxes:
        left, top, wide, high = found.box
        points = [(left + wide / 2, top + high / 2), (wide, high)]  # type: ignore[list-item]
    return " ".join(f"{x / width:.8g} {y / height:.8g}" for x, y in points)
