"""Hugging Face `datasets`: Parquet shards whose schema says which column is an image.

`load_dataset("parquet", data_files="data/*.parquet")` gives `Image` and `ClassLabel` columns with
no code: the features stand in the Parquet metadata under the key that `datasets` itself writes.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.export.layout import Task, Written
from catalog.export.pictures import DETAILS, Picture
from catalog.export.shards import shards
from catalog.schema import SAMPLES

_ROW_GROUP = 64
"""Images per row group: what a reader of one image has to fetch."""


def write(task: Task) -> Iterator[Written]:
    """Write `data/train-NNNNN.parquet`, each up to `shard_bytes` of pictures."""
    schema = schema_of(task.pictures.facts.class_names)
    (task.folder / "data").mkdir()
    for number, shard in enumerate(shards(task)):
        name = f"data/train-{number:05d}.parquet"
        with pq.ParquetWriter(task.folder / name, schema, compression="zstd") as writer:
            rows: list[Picture] = []
            for picture in shard:
                rows.append(picture)
                if len(rows) == _ROW_GROUP:
                    writer.write_table(_table(rows, schema))
                    rows = []
                yield Written(picture=picture, file=name, mask_file=name if picture.mask else None)
            if rows:
                writer.write_table(_table(rows, schema))


def schema_of(class_names: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of a shard with the features of `datasets` in its metadata."""
    png = SAMPLES.field("image").type
    details = [pa.field(name, SAMPLES.field(name).type) for name in DETAILS]
    fields = [pa.field("image", png), pa.field("mask", png), pa.field("label", pa.int64())]
    fields += [pa.field("image_id", pa.string()), pa.field("class_name", pa.string()), *details]
    features = {f.name: _feature(f.type) for f in fields[3:]}
    features["image"] = features["mask"] = {"_type": "Image"}
    features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    ordered = {f.name: features[f.name] for f in fields}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": ordered}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def _table(pictures: list[Picture], schema: pa.Schema) -> pa.Table:
    rows = [
        {
            "image": {"bytes": p.image, "path": f"{p.name}.png"},
            "mask": None if p.mask is None else {"bytes": p.mask, "path": f"{p.name}.png"},
            "label": p.class_id,
            "image_id": p.image_id,
            "class_name": p.class_name,
            **p.details,
        }
        for p in pictures
    ]
    return pa.Table.from_pylist(rows, schema=schema)
