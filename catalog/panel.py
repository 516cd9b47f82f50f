"""One sample with its mask as a viewer wants them: image | mask | outlines over the image."""

import io
from collections.abc import Mapping

from PIL import Image, ImageChops, ImageFilter

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
    present = [value for value, count in enumerate(indices.histogram()) if count and value]
    for number in present:
        overlay.paste(_colour(number), mask=_outline(indices, number))
    shown = Image.new("RGB", (3 * image.width + 2 * GAP_PX, image.height), (255, 255, 255))
    for place, part in enumerate((image, _coloured(indices), overlay)):
        shown.paste(part, (place * (image.width + GAP_PX), 0))
    return shown


def _indices(mask: Mapping[str, bytes]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(mask["bytes"])).convert("L")
    except (OSError, TypeError, Image.DecompressionBombError) as error:
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


def _outline(indices: Image.Image, number: int) -> Image.Image:
    """Return where the region of class `number` ends, one pixel wide and inside it."""
    inside = indices.point([255 if value == number else 0 for value in range(256)])
    return ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))
