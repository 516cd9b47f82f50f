"""Pictures in class folders and the manifest: for eyes, spreadsheets and own converters."""

from collections.abc import Iterator

from catalog.export.layout import Task, Written, put_pair


def write(task: Task) -> Iterator[Written]:
    """Write `images/CLASS/ID.png` and `masks/CLASS/ID.png`."""
    for picture in task.pictures:
        name = f"{picture.folder}/{picture.name}.png"
        yield put_pair(task, picture, f"images/{name}", f"masks/{name}")
