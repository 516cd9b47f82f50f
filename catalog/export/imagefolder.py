"""ImageFolder: a folder per class below `train`, and a line of `metadata.jsonl` per image.

`torchvision.datasets.ImageFolder("train")` and `load_dataset("imagefolder", data_dir=...)` read
classes from the folders, `load_dataset(FOLDER)` takes masks and columns too, from the metadata that
the card names (JSON: a class called NA stays a text). Torchvision would take a folder of masks in
`train` for a class, and `datasets` follows no path upwards: so the masks lie beside `train`, and
the metadata above both. ImageFolder numbers classes by the sorted names of their folders;
`class_id` is the catalog's number.
"""

import json
from collections.abc import Iterator

from catalog.export.layout import Task, Written, described, put_pair

METADATA = "metadata.jsonl"


def write(task: Task) -> Iterator[Written]:
    """Write `train/CLASS/ID.png`, `masks/CLASS/ID.png` and the metadata."""
    with (task.folder / METADATA).open("x", encoding="utf-8") as metadata:
        for picture in task.pictures:
            name = f"{picture.folder}/{picture.name}.png"
            written = put_pair(task, picture, f"train/{name}", f"masks/{name}")
            line: dict[str, str | None] = {"file_name": f"train/{name}"}
            if task.pictures.have_masks:
                line["mask_file_name"] = f"masks/{name}" if picture.mask else None
            told = {**line, "label": picture.class_name, **described(picture)}
            metadata.write(json.dumps(told) + "\n")
            yield written
