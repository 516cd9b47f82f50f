"""WebDataset: tar shards in which an image, its class, its mask and its columns share a key."""

import io
import json
import tarfile
from collections.abc import Iterator

from catalog.export.layout import Task, Written, described
from catalog.export.shards import shards


def write(task: Task) -> Iterator[Written]:
    """Write `train-NNNNNN.tar` with KEY.png, KEY.mask.png, KEY.cls and KEY.json for each image.

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
