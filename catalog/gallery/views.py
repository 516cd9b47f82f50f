"""The pictures that one row gives: as it is stored, its mask in colours, its mask's outlines."""

from collections.abc import Callable, Mapping
from typing import Any

from catalog.gallery.pictures import png_bytes
from catalog.panel import coloured, outlines
from factory.errors import CatalogError

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
