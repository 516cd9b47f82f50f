"""Formats that are shards, cut by the bytes of their files in one pass."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.export.layout import DETAILS, Picture, Task, Written, described
from catalog.schema import SAMPLES


def shards(task: Task) -> Iterator[Iterator[Picture]]:
    """Yield runs of pictures of at most `shard_bytes` together; each has at least one."""
    pictures = iter(task.pictures)
    held = next(pictures, None)

    def run() -> Iterator[Picture]:
        nonlocal held
        size = 0
        while held is not None and (size == 0 or size + _size(held) <= task.shard_bytes):
            picture, held = held, next(pictures, None)
            size += _size(picture)
            yield picture

    while held is not None:
        yield run()


def _size(picture: Picture) -> int:
    return len(picture.image) + len(picture.mask or b"")


def webdataset(task: Task) -> Iterator[Written]:
    """WebDataset: tar shards in which an image, its class, its mask and its columns share a key.

    Write `train-NNNNNN.tar` with KEY.png, KEY.mask.png, KEY.cls and KEY.json for each image.

    Equal selections give equal bytes: members carry no time and no owner.
    """
    for number, shard in enumerate(shards(task)):
        name = f"train-{number:06d}.tar"
        with tarfile.open(task.folder / name, "x", format=tarfile.USTAR_FORMAT) as tar:
            for picture in shard:
                described_as = json.dumps(described(picture)).encode()
                members = {"png": picture.image, "cls": b"%d" % picture.class_id}
                if picture.mask is not None:
                    members["mask.png"] = picture.mask
                for suffix, data in {**members, "json": described_as}.items():
                    _add(tar, f"{picture.name}.{suffix}", data)
                held = f"{name}/{picture.name}"
                yield Written(
                    picture=picture,
                    file=f"{held}.png",
                    mask_file=None if picture.mask is None else f"{held}.mask.png",
                )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


_ROW_GROUP = 64
"""Images per row group: what a reader of one image has to fetch."""


def huggingface(task: Task) -> Iterator[Written]:
    """Hugging Face `datasets`: Parquet shards whose schema says which column is an image.

    Write `data/train-NNNNN.parquet`, each up to `shard_bytes` of pictures.

    `load_dataset("parquet", data_files="data/*.parquet")` gives `Image` and `ClassLabel` columns
    with no code: the features stand in the Parquet metadata under the key that `datasets` itself
    writes.
    """
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
