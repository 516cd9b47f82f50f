"""Contact sheets of images in memory: labelled rows, enlarged so that a pixel can be seen."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from factory.arrays import Images
from factory.atomic import write_bytes

GAP_PX = 2
CAPTION_PX = 18


def write_sheet(path: Path, rows: Mapping[str, Images], *, zoom: int = 2) -> None:
    """Write a PNG with one captioned row of images (n, H, W, 3) per entry, nearest neighbour.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_bytes(path, sheet_of(rows, zoom=zoom))


def sheet_of(rows: Mapping[str, Images], *, zoom: int = 2) -> bytes:
    """Return the PNG that `write_sheet` writes."""
    return _stacked([_row(caption, images, zoom) for caption, images in rows.items()])


def below_each_other(sheets: Sequence[Path]) -> bytes:
    """Return the PNG of several sheets, one below the other.

    Raises:
        OSError: a sheet cannot be read.
    """
    return _stacked([Image.open(path) for path in sheets])


def _stacked(blocks: Sequence[Image.Image]) -> bytes:
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _row(caption: str, images: Images, zoom: int) -> Image.Image:
    height, side = (length * zoom + GAP_PX for length in images.shape[1:3])
    font = ImageFont.load_default(13)
    width = max(len(images) * side, int(font.getlength(caption)) + 4)
    row = Image.new("RGB", (width, height + CAPTION_PX), "white")
    ImageDraw.Draw(row).text((2, 2), caption, fill="black", font=font)
    for number, image in enumerate(images):
        enlarged = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
        row.paste(Image.fromarray(enlarged), (number * side, CAPTION_PX))
    return row


def beside(left: Images, right: Images) -> Images:
    """Return both rows of images with a white one between them."""
    return np.concatenate([left, np.full_like(left[:1], 255), right])


def pairs(first: Images, second: Images) -> Images:
    """Return a row of images in which every first one stands beside its second."""
    return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
