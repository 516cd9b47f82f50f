"""Every file below a folder, with links followed: what a loader would find there."""

from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield all files below `folder`, in order of their names, and links that lead nowhere.

    Links to folders are followed, unless they lead back to a folder that they lie in.

    Raises:
        OSError: a folder that cannot be read.
    """
    here = folder.resolve()
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from files_below(path, (*above, here))
        elif path.is_file() or path.is_symlink():
            yield path
