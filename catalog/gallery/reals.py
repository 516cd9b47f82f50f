"""Real images beside drawn ones, where the one who started the server said that they may be shown.

The data set is opened once, at the first question; what nears a drawn image is found by thumbnails,
as the copy gate finds it in pixels. Nothing of it is written anywhere.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalog.embed import AT_ONCE, Space, space_of
from catalog.features import Map
from catalog.gallery.pictures import png_bytes
from factory.errors import DataError
from factory.real.dataset import RealDataset
from factory.real.images import square
from factory.real.pixels import opened

FEATURES_PX = 128
"""Side at which features of real images are computed, where a network does not say its own."""
THUMBNAIL_PX = 32
MOST = 5000
"""Images of a data set up to which all are looked through for the nearest."""


class Reals:
    """The real images of one data set. Safe to use from many threads.

    Args:
        data: URI of the data set.
        space: computes their features; None: ring spectra.
    """

    def __init__(self, data: str, space: Space | None = None) -> None:
        self.data = data
        self._space = space
        self._lock = threading.Lock()

    @property
    def dataset(self) -> RealDataset:
        """The data set, opened once.

        Raises:
            DataError: it cannot be read.
        """
        with self._lock:
            return self._opened

    def png(self, image_id: str) -> bytes:
        """Return the central square of a real image as PNG.

        Raises:
            DataError: no such image.
        """
        return png_bytes(self._square(image_id))

    def of_class(self, name: str, count: int) -> list[str]:
        """Return ids of a class, evenly chosen; none where the data set has no such class."""
        members = self._members.get(name, [])
        return members[:: max(1, len(members) // count)][:count]

    def nearest(self, png: bytes, count: int = 3) -> list[str]:
        """Return the ids of the real images nearest to a drawn one, under any flip or turn.

        By the distance of thumbnails; none where there are more than `MOST`.
        """
        if len(self.dataset) > MOST:
            return []
        try:
            own = _thumbnail(opened(png))
        except OSError:
            return []
        with self._lock:
            stored = self._thumbnails
        turned = [np.rot90(each, k) for each in (own, own[:, ::-1]) for k in range(4)]
        distances = np.stack([((stored - each.reshape(-1)) ** 2).sum(axis=1) for each in turned])
        order = np.argsort(distances.min(axis=0), kind="stable")[:count]
        return [self.dataset.ids[int(n)] for n in order]

    def on_map(self, found: Map) -> tuple[NDArray[np.float32], list[str]] | None:
        """Return places (N, 2) of the real images on a map, and their labels.

        None where their features are not to be had: the map is of another network, or there are
        more images than `MOST`.

        Raises:
            DataError: the data set cannot be read.
        """
        if len(self.dataset) > MOST:
            return None
        with self._lock:
            if self._space is None:
                self._space = space_of(None)
            if self._space.digest != found.digest:
                return None
            return found.axes(self._features)[:, :2], list(self._opened.labels)

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        space = self._space or space_of(None)
        side, ids = getattr(space, "input_px", FEATURES_PX), self._opened.ids
        return np.concatenate(
            [
                space.extract(self._opened.array(side, list(ids[start : start + AT_ONCE])))
                for start in range(0, len(ids), AT_ONCE)
            ]
        )

    @cached_property
    def _opened(self) -> RealDataset:
        from factory.real.sources import open_dataset

        return open_dataset(self.data)

    @cached_property
    def _members(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for image_id, label in zip(self.dataset.ids, self.dataset.labels, strict=True):
            found.setdefault(label, []).append(image_id)
        return found

    @cached_property
    def _thumbnails(self) -> NDArray[np.float32]:
        rows = [_thumbnail(self._opened.picture(n)).reshape(-1) for n in range(len(self._opened))]
        return np.stack(rows)

    def _square(self, image_id: str) -> Image.Image:
        dataset = self.dataset
        picture = Image.fromarray(dataset.image(dataset.index_of(image_id)))
        return square(picture, min(picture.size))


def real_png(reals: Reals | None, image_id: str) -> bytes:
    """Return a real image as PNG.

    Raises:
        DataError: no such image, or no data set was named.
    """
    if reals is None:
        raise DataError("no real images are shown here", remedy="Start it with --data URI")
    return reals.png(image_id)


def _thumbnail(picture: Image.Image) -> NDArray[np.float32]:
    side = min(picture.size)
    small = square(picture.convert("RGB"), side).resize((THUMBNAIL_PX, THUMBNAIL_PX))
    return np.asarray(small, np.float32)


def beside(reals: Reals | None, names: Sequence[str], count: int) -> dict[str, list[str]]:
    """Return class -> ids of some of its real images; empty without data."""
    return {name: reals.of_class(name, count) for name in names} if reals else {}
