"""COCO: images, lossless masks, and an instance for every connected part of a mask.

Segmentations are run lengths, which pycocotools, torchvision and detectron2 read as they read
polygons, and which lose nothing. What the categories are, `catalog.export.objects` says.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from catalog.export.layout import Task, Written, put_pair
from catalog.export.objects import Object, kinds_of, objects_of
from catalog.export.pictures import Picture

INSTANCES = "annotations/instances_train.json"


def write(task: Task) -> Iterator[Written]:
    """Write `images/ID.png`, `masks/ID.png` and the instances.

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
