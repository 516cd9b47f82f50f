"""ImageFolder: a folder per class, a line of `metadata.jsonl` per image, masks beside.

`torchvision.datasets.ImageFolder("train/images")` reads it, and so does
`load_dataset("imagefolder", data_dir=...)`, which takes masks and columns from the metadata (JSON:
a class called NA stays a text). ImageFolder numbers classes by the sorted names of their folders;
`class_id` is the catalog's number.
"""

import json
from collections.abc import Iterator

from catalog.export.layout import Task, Written, described, put_pair

METADATA = "train/metadata.jsonl"


def write(task: Task) -> Iterator[Written]:
    """Write `train/images/CLASS/ID.png`, `train/masks/CLASS/ID.png` and the metadata."""
    (task.folder / METADATA).parent.mkdir()
    with (task.folder / METADATA).open("x", encoding="utf-8") as metadata:
        for picture in task.pictures:
            name = f"{picture.folder}/{picture.name}.png"
            written = put_pair(task, picture, f"train/images/{name}", f"train/masks/{name}")
            line: dict[str, str | None] = {"file_name": f"images/{name}"}
            if task.pictures.have_masks:
                line["mask_file_name"] = f"masks/{name}" if picture.mask else None
            metadata.write(json.dumps({**line, **described(picture)}) + "\n")
            yield written
