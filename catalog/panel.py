"""One sample with its mask as a viewer wants them: image | mask | outlines over the image."""

import io
from collections.abc import Mapping
from functools import reduce
from operator import or_

import numpy as np
from PIL import Image

from factory.errors import CatalogError

CLASS_COLOURS = ((0, 0, 0), (0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167))
"""Of classes 0, 1, ...; later ones begin again at 1. Told apart with any colour vision.

Source: M. Okabe and K. Ito, Color Universal Design, 2002."""
GAP_PX = 2


def panel(image: Image.Image, mask: Mapping[str, bytes]) -> Image.Image:
    """Return image, mask in colours, and image with outlines, side by side.

    Args:
        image: as it is to be shown: the mask is enlarged, or shrunk, by its nearest pixels.
        mask: a mask column's value: a PNG of class indices.

    Raises:
        CatalogError: the mask is no readable PNG.
    """
    indices = _indices(mask).resize(image.size, Image.Resampling.NEAREST)
    overlay = image.copy()
    lines = _lines(indices).convert("RGBA")
    overlay.paste(lines, mask=lines.getchannel("A"))
    shown = Image.new("RGB", (3 * image.width + 2 * GAP_PX, image.height), (255, 255, 255))
    for place, part in enumerate((image, _coloured(indices), overlay)):
        shown.paste(part, (place * (image.width + GAP_PX), 0))
    return shown


def outlines(mask: Mapping[str, bytes], *, size_px: int) -> Image.Image:
    """Return a mask's outlines in colours, all else clear, to lie over its image.

    It is enlarged by a whole factor to at least `size_px`, so that thin lines stay thin.

    Raises:
        CatalogError: the mask is no readable PNG.
    """
    indices = _indices(mask)
    factor = max(1, -(-size_px // max(indices.size)))
    size = (indices.width * factor, indices.height * factor)
    return _lines(indices.resize(size, Image.Resampling.NEAREST))


def coloured(mask: Mapping[str, bytes]) -> Image.Image:
    """Return a mask in the colours of its classes.

    Raises:
        CatalogError: the mask is no readable PNG.
    """
    return _coloured(_indices(mask))


def _lines(indices: Image.Image) -> Image.Image:
    """Return the outline of every region, one pixel wide and inside it; colour 0 is clear."""
    pixels = np.asarray(indices)
    around = np.pad(pixels, 1, mode="edge")
    height, width = pixels.shape
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    edge = reduce(or_, (around[y : y + height, x : x + width] != pixels for y, x in shifts))
    present = [value for value, count in enumerate(indices.histogram()) if count and value]
    places = np.zeros(256, np.uint8)  # few colours make a small PNG
    places[present] = range(1, len(present) + 1)
    lines = Image.fromarray(np.where(edge, places[pixels], 0).astype(np.uint8)).convert("P")
    lines.putpalette([level for number in (0, *present) for level in _colour(number)])
    lines.info["transparency"] = 0
    return lines


def _indices(mask: Mapping[str, bytes]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(mask["bytes"])).convert("L")
    except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CatalogError(
            f"mask {mask.get('path')!r} is no readable PNG ({error})",
            remedy="Draw it again with `factory regenerate`, or leave it out with --where",
        ) from error


def _colour(number: int) -> tuple[int, int, int]:
    rest = len(CLASS_COLOURS) - 1
    return CLASS_COLOURS[0 if number == 0 else 1 + (number - 1) % rest]


def _coloured(indices: Image.Image) -> Image.Image:
    palette = [value for number in range(256) for value in _colour(number)]
    coloured = indices.copy()
    coloured.putpalette(palette)
    return coloured.convert("RGB")
