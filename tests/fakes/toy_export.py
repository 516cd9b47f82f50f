"""A format that is one file: flat pictures."""

from collections.abc import Iterator

from catalog.export.layout import Task, Written, put_pair


def write(task: Task) -> Iterator[Written]:
    for picture in task.pictures:
        yield put_pair(task, picture, f"{picture.name}.png", f"{picture.name}-mask.png")
