"""Images that are more than memory should hold: rows in a file, read when they are asked for."""

import math
import os
import re
import socket
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Images
from factory.errors import OutputError

if TYPE_CHECKING:  # torch waits until something is trained
    from torch import Tensor

IN_MEMORY = 2**30
"""Bytes of images, or of masks, that a study keeps in memory: 7,000 images of 224 px."""
_NAME = ".pictures-{host}-{pid}-{number}.raw"
_numbers = count()

Rows = int | slice | Sequence[int] | NDArray[np.int64]


class Pictures:
    """Rows (N, ...) uint8 of a file, which are read and written as those of an array are.

    Sent to another process of this machine, it opens the same file there.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Open the file.

        Raises:
            OutputError: it is not there.
        """
        self.path, self.shape = path, shape
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT * (not shape[0]), 0o600)
        except OSError as error:
            raise OutputError(
                f"the images of the study at {path} cannot be opened ({error.strerror})",
                remedy="Give an --output that every machine of the cluster sees",
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Pictures, (self.path, self.shape)

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:])

    def __getitem__(self, rows: Rows) -> NDArray[np.uint8]:
        """Return one row (...), or several (M, ...), as an array would."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._read(start, max(0, stop - start))
            rows = range(start, stop, step)
        if isinstance(rows, int | np.integer):
            row: NDArray[np.uint8] = self._read(self._within(int(rows)), 1)[0]
            return row
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for n, row in enumerate(rows):
            out[n] = self._read(self._within(int(row)), 1)[0]
        return out

    def _within(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return row % len(self)

    def _read(self, start: int, num: int) -> NDArray[np.uint8]:
        out = np.empty((num, *self.shape[1:]), np.uint8)
        left, at = out.reshape(-1).data, start * self.row_bytes
        while len(left):  # a single read gives 2 GiB at most
            done = os.preadv(self._file, [left], at)
            if not done:
                raise OutputError(
                    f"{self.path} is shorter than it was", remedy="Run the same command again"
                )
            left, at = left[done:], at + done
        return out

    def append(self, rows: NDArray[np.uint8]) -> "Pictures":
        """Return it with these rows behind its own.

        Raises:
            OutputError: the disk is full.
        """
        left, at = np.ascontiguousarray(rows).reshape(-1).data, len(self) * self.row_bytes
        try:
            while len(left):
                done = os.pwrite(self._file, left, at)
                left, at = left[done:], at + done
        except OSError as error:
            size = (len(self) + len(rows)) * self.row_bytes / 2**30
            raise OutputError(
                f"{self.path}: {size:.1f} GiB of images cannot be written ({error.strerror})",
                remedy="Make room, or give an --output on a larger disk",
            ) from error
        return Pictures(self.path, (len(self) + len(rows), *self.shape[1:]))


class Chosen:
    """Rows of images as a training asks for them: tensors, of what lies in memory or in a file."""

    def __init__(self, images: "Images | Pictures", rows: Sequence[int]) -> None:
        """`rows` of `images` (N, ...)."""
        self._images, self._rows = images, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: "Tensor | slice") -> "Tensor":
        """Return some of them, (M, ...) uint8."""
        import torch

        own = self._rows[rows if isinstance(rows, slice) else rows.numpy()]
        return torch.from_numpy(self._images[own])


class Gathering:
    """What images are collected in: in memory, or in a file where they are too many for it."""

    def __init__(self, count: int, shape: tuple[int, ...], folder: Path | None) -> None:
        """For `count` rows of a shape; None: in memory, however many.

        Raises:
            OutputError: the folder cannot be written.
        """
        self._filled = 0
        self._images: Images | Pictures
        if folder is None or count * math.prod(shape) <= IN_MEMORY:
            self._images = np.empty((count, *shape), np.uint8)
            return
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        name = _NAME.format(host=socket.gethostname(), pid=os.getpid(), number=next(_numbers))
        self._images = Pictures(folder / name, (0, *shape))

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Put rows (M, ...) behind those that are there.

        Raises:
            OutputError: the disk is full.
        """
        if isinstance(self._images, Pictures):
            self._images = self._images.append(rows)
        else:
            self._images[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def done(self) -> "Images | Pictures":
        """Return all of them."""
        return self._images if isinstance(self._images, Pictures) else self._images[: self._filled]


def extended(
    images: "Images | Pictures", parts: Sequence[NDArray[np.uint8]]
) -> "Images | Pictures":
    """Return images with further ones behind them."""
    if isinstance(images, np.ndarray):
        return np.concatenate([images, *parts])
    for part in parts:
        images = images.append(part)
    return images


def discard(*images: "Images | Pictures") -> None:
    """Remove the files of images that nobody needs any more."""
    for each in images:
        if isinstance(each, Pictures):
            each.path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder."""
    pid, number = r"(\d+)", r"\d+"
    own = re.compile(_NAME.format(host=re.escape(socket.gethostname()), pid=pid, number=number))
    for path in folder.iterdir():
        if (made := own.fullmatch(path.name)) is None:  # of another machine, or not ours
            continue
        try:
            os.kill(int(made[1]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            continue
