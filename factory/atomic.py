"""Files that appear whole or not at all: write beside, sync, rename."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factory.errors import OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path`, a place that the user chose, in the error when it cannot be written.

    Raises:
        OutputError: instead of an `OSError` of the work inside.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{str(path)!r} cannot be written ({error.strerror or error})",
            remedy="Choose another place, or free some space there",
        ) from error


def check_writable(folder: Path) -> None:
    """Raise unless files can be written below `folder`, which need not be there yet.

    By trying, as permissions say too little (root may write everywhere, but not into /proc or on a
    read-only disk). Nothing is left behind.

    Raises:
        OutputError: naming the folder.
    """
    folder = Path(folder).expanduser().absolute()
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    with writing(folder):
        probe = _beside(nearest / "probe")
        probe.mkdir()
        probe.rmdir()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader ever sees a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = _beside(path)
    try:
        with work.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    write_bytes(path, text.encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work, old = _beside(path), _beside(path)
    work.mkdir()
    try:
        yield work
        _share(work)
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let files be read by whoever may read the folder: safetensors writes them for one user."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _beside(path: Path) -> Path:
    """Return a fresh hidden name in the same folder; unlike `tempfile`'s, it obeys the umask."""
    if not path.name:  # '.' or '/'
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")
