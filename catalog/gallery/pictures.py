"""Pictures of a page: read from the files that hold them, as small PNGs inside the page itself.

Why inside, as data URIs: a server in Python takes about a millisecond for every further request,
and the page arrives whole; tests/bench/bench_gallery.py measures both ways in a browser.
"""

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from catalog.gallery.index import View
from catalog.sheet import coloured, decoded, outlines
from catalog.store import reading
from factory.errors import CatalogError

THUMBNAIL_PX = 128
"""Longer pictures are shrunk to this; smaller ones go out as they are stored."""
CACHE_BYTES = 96 * 2**20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Key = tuple[str, str]
"""(run_id, image_id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A picture and its mask's outlines as PNG; empty where there is none that can be read."""

    image: bytes
    lines: bytes

    @property
    def image_uri(self) -> str:
        """The picture as an address that needs no server."""
        return _data_uri(self.image)

    @property
    def lines_uri(self) -> str:
        """The outlines likewise."""
        return _data_uri(self.lines)


class Thumbnails:
    """Makes thumbnails and keeps the latest ones. Safe to use from many threads."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._held: OrderedDict[Key, Thumbnail] = OrderedDict()
        self._bytes = 0
        self._limit = limit_bytes
        self._lock = threading.Lock()

    def of(self, view: View, rows: Sequence[Mapping[str, Any]]) -> list[Thumbnail]:
        """Return the thumbnail of each row of the index.

        Raises:
            CatalogError: a data file is gone.
        """
        keys = [(row["run_id"], row["image_id"]) for row in rows]
        with self._lock:
            found = {key: self._held[key] for key in keys if key in self._held}
        missing = [row for row, key in zip(rows, keys, strict=True) if key not in found]
        if missing:
            found |= {key: thumbnail(*pngs) for key, pngs in pngs_of(view, missing).items()}
            self._keep(found)
        return [found[key] for key in keys]

    def forget(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def _keep(self, found: Mapping[Key, Thumbnail]) -> None:
        with self._lock:
            for key, each in found.items():
                if key not in self._held:
                    self._bytes += len(each.image) + len(each.lines)
                self._held[key] = each
                self._held.move_to_end(key)
            while self._bytes > self._limit and self._held:
                _, old = self._held.popitem(last=False)
                self._bytes -= len(old.image) + len(old.lines)


def pngs_of(
    view: View, rows: Sequence[Mapping[str, Any]]
) -> dict[Key, tuple[bytes | None, bytes | None]]:
    """Return {(run_id, image_id): (image, mask)} of rows of the index, as stored.

    Raises:
        CatalogError: a data file is gone.
    """
    table = rows_of(view, rows, ("image", "mask"))
    keys = zip(table["run_id"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    images, masks = (
        pc.struct_field(table[name], "bytes").to_pylist() for name in ("image", "mask")
    )
    return dict(zip(keys, zip(images, masks, strict=True), strict=True))


def rows_of(view: View, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return some columns of rows of the index from the files that hold them, in no set order.

    Raises:
        CatalogError: a data file is gone.
    """
    files = view.catalog.files("samples")
    paths = pa.array(
        sorted({view.paths[row["file"]] for row in rows if row["file"] < len(view.paths)}),
        pa.string(),
    )
    kept = np.asarray(pc.is_in(files.listed["path"], paths), bool)
    match = pc.field("image_id").isin(pa.array({row["image_id"] for row in rows}, pa.string()))
    wanted = list(dict.fromkeys(["run_id", "image_id", *columns]))
    with reading(view.catalog.uri, files):
        return files.dataset(kept).to_table(columns=wanted, filter=match)


def thumbnail(image: bytes | None, mask: bytes | None) -> Thumbnail:
    """Return the thumbnail of a stored image and its mask; broken ones give empty pictures."""
    lines = b""
    if mask:
        try:
            lines = png_bytes(outlines({"bytes": mask}, size_px=THUMBNAIL_PX))
        except CatalogError:
            lines = b""
    return Thumbnail(image=_small(image or b""), lines=lines)


def is_png(data: bytes | None) -> bool:
    """Whether `data` says that it is a PNG: nothing else is ever sent as one."""
    return data is not None and data.startswith(_SIGNATURE)


def size_of(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as a PNG's header says."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _small(data: bytes) -> bytes:
    if not is_png(data):
        return b""
    if max(size_of(data)) <= THUMBNAIL_PX:
        return data
    try:
        picture = decoded({"bytes": data}, "")
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=2)
    except (CatalogError, OSError, ValueError):
        return b""
    return png_bytes(picture)


def _data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else ""


OUTLINE_PX = 256
"""Outlines are drawn on a picture enlarged to at least this."""


def _image(row: Mapping[str, Any]) -> bytes:
    return bytes(row["image"]["bytes"] or b"")


def _mask(row: Mapping[str, Any]) -> bytes:
    return b"" if row["mask"] is None else png_bytes(coloured(row["mask"]))


def _outlines(row: Mapping[str, Any]) -> bytes:
    return b"" if row["mask"] is None else png_bytes(outlines(row["mask"], size_px=OUTLINE_PX))


def _or_nothing(draw: Callable[[Mapping[str, Any]], bytes]) -> Callable[[Mapping[str, Any]], bytes]:
    def drawn(row: Mapping[str, Any]) -> bytes:
        try:
            return draw(row)
        except CatalogError:  # no readable PNG: there is nothing to show
            return b""

    return drawn


PICTURES = {"image": _image, "mask": _or_nothing(_mask), "outlines": _or_nothing(_outlines)}
"""Name in an address -> PNG of a row with image and mask; empty where there is none."""
