"""ImageFolder: a folder per class below `train`, and a line of `metadata.jsonl` per image.

`torchvision.datasets.ImageFolder("train")` takes classes from the folders and would take one of
masks for a class, so masks lie beside `train`. `load_dataset("imagefolder", data_dir=...)` takes
classes and columns from the metadata in `train` (JSON: a class called NA stays a text). It follows
no path upwards: where there are masks, a second table, above both, has them too, and the card leads
`load_dataset(FOLDER)` to that one. ImageFolder numbers classes by the sorted names of their
folders; `class_id` is the catalog's number.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext

from catalog.export.layout import Task, Written, described, put_pair

METADATA = "metadata.jsonl"


def write(task: Task) -> Iterator[Written]:
    """Write `train/CLASS/ID.png`, `masks/CLASS/ID.png` and the metadata."""
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
