"""Pictures cut into shards by the bytes of their files, in one pass."""

from collections.abc import Iterator

from catalog.export.layout import Task
from catalog.export.pictures import Picture


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
