"""Formats that are folders of PNG files: by class, ImageFolder, COCO, YOLO."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import yaml

from catalog.export.layout import Picture, Task, Written, described, put, put_pair
from catalog.export.objects import Object, kinds_of, objects_of


def plain(task: Task) -> Iterator[Written]:
    """Pictures in class folders and the manifest: for eyes, spreadsheets and own converters.

    Write `images/CLASS/ID.png` and `masks/CLASS/ID.png`.
    """
    for picture in task.pictures:
        name = f"{picture.folder}/{picture.name}.png"
        yield put_pair(task, picture, f"images/{name}", f"masks/{name}")


METADATA = "metadata.jsonl"


def imagefolder(task: Task) -> Iterator[Written]:
    """ImageFolder: a folder per class below `train`, and a line of `metadata.jsonl` per image.

    Write `train/CLASS/ID.png`, `masks/CLASS/ID.png` and the metadata.

    `torchvision.datasets.ImageFolder("train")` takes classes from the folders and would take one of
    masks for a class, so masks lie beside `train`. `load_dataset("imagefolder", data_dir=...)`
    takes classes and columns from the metadata in `train` (JSON: a class called NA stays a text).
    It follows no path upwards: where there are masks, a second table, above both, has them too, and
    the card leads `load_dataset(FOLDER)` to that one. ImageFolder numbers classes by the sorted
    names of their folders; `class_id` is the catalog's number.
    """
    (task.folder / "train").mkdir()
    inner = (task.folder / "train" / METADATA).open("x", encoding="utf-8")
    outer = (
        (task.folder / METADATA).open("x", encoding="utf-8") if task.pictures.have_masks else None
    )
    with inner, outer or nullcontext():
        for picture in task.pictures:
            name = f"{picture.folder}/{picture.name}.png"
            written = put_pair(task, picture, f"train/{name}", f"masks/{name}")
            told = {"label": picture.class_name, **described(picture)}
            inner.write(json.dumps({"file_name": name, **told}) + "\n")
            if outer is not None:
                pair = {"file_name": written.file, "mask_file_name": written.mask_file}
                outer.write(json.dumps({**pair, **told}) + "\n")
            yield written


INSTANCES = "annotations/instances_train.json"


def coco(task: Task) -> Iterator[Written]:
    """COCO: images, lossless masks, and an instance for every connected part of a mask.

    Write `images/ID.png`, `masks/ID.png` and the instances.

    Segmentations are run lengths, which pycocotools, torchvision and detectron2 read as they read
    polygons, and which lose nothing. What the categories are, `catalog.export.objects` says.

    Raises:
        CatalogError: see `kinds_of`.
    """
    kinds, facts = kinds_of(task.pictures), task.pictures.facts
    (task.folder / INSTANCES).parent.mkdir()
    head = {
        "info": {"description": f"Synthetic images: {facts.name}", "version": facts.semver},
        "licenses": [],
        "categories": [
            {"id": n + 1, "name": name, "supercategory": "object"}  # readers take it for granted
            for n, name in enumerate(kinds.names)
        ],
    }
    with (
        (task.folder / INSTANCES).open("x", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as annotations,  # as long as the images
    ):
        out.write(json.dumps(head)[:-1] + ', "images": [')
        count = 0
        for number, picture in enumerate(task.pictures, start=1):
            image = _image(picture, number)
            _append(out, image, first=number == 1)
            for found in objects_of(picture):
                category = kinds.of(picture, found.value) + 1
                count += 1
                told = {"id": count, **_annotation(found, image, category)}
                _append(annotations, told, first=count == 1)
            name = f"{picture.name}.png"
            yield put_pair(task, picture, f"images/{name}", f"masks/{name}")
        out.write('], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, out)
        out.write("]}\n")


def _append(file: IO[str], value: dict[str, Any], *, first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(value))


def _image(picture: Picture, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": f"{picture.name}.png",
        "height": picture.details["height_px"],
        "width": picture.details["width_px"],
        "image_id": picture.image_id,
        "class_name": picture.class_name,
    }


def _annotation(found: Object, image: dict[str, Any], category: int) -> dict[str, Any]:
    size = [image["height"], image["width"]]
    return {
        "image_id": image["id"],
        "category_id": category,
        "iscrowd": 0,
        "area": found.area,
        "bbox": list(found.box),
        "segmentation": {"size": size, "counts": found.runs(*size)},
    }


_PARTS = """\
# These images are drawn: scores on them say nothing. Put the folder of your real images here:
val: images/train
train: images/train
"""


def yolo(task: Task) -> Iterator[Written]:
    """YOLO: a line per object beside every image, as an outline or as a box, and `data.yaml`.

    Write `images/train/ID.png`, `labels/train/ID.txt`, `masks/train/ID.png`, `data.yaml`.

    Outlines run along pixel edges and lose nothing but holes, which the format cannot tell; the
    masks lie beside, lossless. `data.yaml` has no `path`, so readers look beside the file, wherever
    they are started from (`path: .` would mean their own folder of data sets). They refuse a file
    without `val`: the drawn images stand there, until real ones take their place, on which a model
    is to be tested.

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
