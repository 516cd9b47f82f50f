"""A contact sheet: a labelled block of images per class, to look at before trusting a figure.

An image with a mask is shown three times: plain, its mask, the mask's outlines over it.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from catalog.boundary import decoded_png
from catalog.query import sql
from catalog.schema import ACCEPTED
from catalog.table import Catalog
from factory.atomic import write_bytes, writing
from factory.errors import CatalogError

CLASS_COLOURS = ((0, 0, 0), (0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167))
"""Of classes 0, 1, ...; later ones begin again at 1. Told apart with any colour vision.

Source: M. Okabe and K. Ito, Color Universal Design, 2002."""
PANEL_GAP_PX = 2


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
    shown = Image.new("RGB", (3 * image.width + 2 * PANEL_GAP_PX, image.height), (255, 255, 255))
    for place, part in enumerate((image, _coloured(indices), overlay)):
        shown.paste(part, (place * (image.width + PANEL_GAP_PX), 0))
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
    return _opened(mask, "L", f"mask {mask.get('path')!r}")


def _opened(cell: Mapping[str, bytes], mode: str, named: str) -> Image.Image:
    """Return the picture in a cell of a column of pictures, in one of Pillow's modes."""
    return decoded_png(cell["bytes"], named=named).convert(mode)


def _colour(number: int) -> tuple[int, int, int]:
    rest = len(CLASS_COLOURS) - 1
    return CLASS_COLOURS[0 if number == 0 else 1 + (number - 1) % rest]


def _coloured(indices: Image.Image) -> Image.Image:
    palette = [value for number in range(256) for value in _colour(number)]
    coloured = indices.copy()
    coloured.putpalette(palette)
    return coloured.convert("RGB")


CELL_PX = 96
"""Images smaller than this are enlarged by a whole factor; larger ones are shrunk to it."""
GAP_PX = 4
CAPTION_PX = 22
PAPER = (250, 250, 248)
INK = (30, 30, 30)
REFUSED = (200, 40, 40)


def sheet_of(
    catalog: Catalog,
    path: str | Path,
    *,
    where: str | None = None,
    per_class: int = 16,
    columns: int = 8,
    diverse: int | None = None,
) -> int:
    """Draw the samples that satisfy the SQL condition `where`; return how many are shown.

    Which are shown is arbitrary and repeatable: the first by image_id, a digest. Only they are
    read, so a catalog of any size will do. With `diverse` all those are shown that cover the rest
    best, see `catalog.features.diverse`, and `per_class` says nothing.

    Raises:
        CatalogError: a bad condition, nothing satisfies it, or no features to choose by.
    """
    if diverse is not None:
        from catalog.selection import Selection, most_diverse

        of = Selection(catalog=catalog, where=where or "true")
        where, per_class = most_diverse(of, diverse).condition, diverse
    condition = f"WHERE ({where}\n)" if where else ""
    # grouping by id: an image that two runs published is one image
    chosen = sql(
        catalog,
        "SELECT image_id, row_number() OVER (PARTITION BY class_name ORDER BY image_id) AS place "
        f"FROM (SELECT DISTINCT image_id, class_name FROM samples {condition}) "
        f"QUALIFY place <= {per_class} ORDER BY image_id",
    )
    if len(chosen) == 0:
        raise CatalogError(
            f"no sample in {catalog.named}" + (f" satisfies {where!r}" if where else ""),
            remedy='Look with `factory catalog sql "SELECT class_name, count(*) ..."`',
        )
    counted = sql(
        catalog,
        f"SELECT class_name, gate_status = '{ACCEPTED}' AS good, count(*) AS n "
        f"FROM samples {condition} GROUP BY ALL",
    )
    counts: defaultdict[str, dict[bool, int]] = defaultdict(lambda: {True: 0, False: 0})
    for row in counted.to_pylist():
        counts[row["class_name"]][row["good"]] = row["n"]
    rows = catalog.rows(
        chosen["image_id"].to_pylist(), columns=["class_name", "gate_status", "image", "mask"]
    )
    contact_sheet(rows, path, per_class=per_class, columns=columns, counts=counts)
    return len(rows)


def contact_sheet(
    rows: pa.Table,
    path: str | Path,
    *,
    per_class: int = 16,
    columns: int = 8,
    counts: Mapping[str, Mapping[bool, int]] | None = None,
) -> Path:
    """Write a PNG with up to `per_class` images of every class, `columns` in a line.

    Args:
        rows: samples with at least the columns class_name and image; with gate_status too, counts
            are split and rejected images get a red frame; with mask, see `catalog.sheet`. Images
            are taken in the order of rows.
        path: where to write.
        per_class: images shown of each class.
        columns: images in a line; those with a mask count as three.
        counts: class -> {True: accepted, False: rejected} for the captions, where `rows` are a
            choice of more.

    Returns:
        The path.

    Raises:
        CatalogError: no rows, columns missing, or an image that is no PNG.
        OutputError: `path` cannot be written.
    """
    if len(rows) == 0 or not {"class_name", "image"} <= set(rows.column_names):
        raise CatalogError(
            f"no contact sheet of {len(rows)} rows with the columns {rows.column_names}",
            remedy="Select image, class_name and gate_status of at least one sample",
        )
    blocks = _blocks(rows, per_class, counts)
    sizes = [image.size for _, shown in blocks for image, _ in shown]
    cell = (max(width for width, _ in sizes), max(height for _, height in sizes))
    columns = columns if cell[0] < 3 * min(cell[1], CELL_PX) else columns // 3
    columns = max(1, min(columns, max(len(shown) for _, shown in blocks)))
    step = cell[1] + GAP_PX
    lines = [-(-len(shown) // columns) for _, shown in blocks]
    height = sum(CAPTION_PX + count * step for count in lines) + GAP_PX
    captions = [font().getlength(caption) for caption, _ in blocks]
    width = max(columns * (cell[0] + GAP_PX), int(max(captions)) + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP_PX
    for (caption, shown), count in zip(blocks, lines, strict=True):
        ImageDraw.Draw(sheet).text((GAP_PX, top), caption, INK, font())
        _paste(sheet, shown, top + CAPTION_PX - GAP_PX, columns, cell)
        top += CAPTION_PX + count * step
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    with writing(Path(path)):
        write_bytes(Path(path), buffer.getvalue())
    return Path(path)


def _blocks(
    rows: pa.Table, per_class: int, counts: Mapping[str, Mapping[bool, int]] | None
) -> list[tuple[str, list[tuple[Image.Image, bool]]]]:
    """Return (caption, [(image, accepted)]) per class, classes in order of their names."""
    judged = "gate_status" in rows.column_names
    good = (
        [s == ACCEPTED for s in rows["gate_status"].to_pylist()] if judged else [True] * len(rows)
    )
    places = defaultdict(list)
    for place, name in enumerate(rows["class_name"].to_pylist()):
        places[name].append(place)
    blocks = []
    for name in sorted(places):
        found = Counter(good[place] for place in places[name])
        number = counts[name] if counts else {True: found[True], False: found[False]}
        caption = f"{number[True]} accepted, {number[False]} rejected"
        shown = [(_tile(rows, place, name), good[place]) for place in places[name][:per_class]]
        blocks.append((f"{name}: {caption if judged else f'{number[True]} images'}", shown))
    return blocks


def decoded(image: dict[str, bytes], name: str) -> Image.Image:
    """Return the picture in an image column; `CatalogError` when there is none."""
    return _opened(image, "RGB", f"image {image.get('path')!r} of class {name!r}")


def _tile(rows: pa.Table, place: int, name: str) -> Image.Image:
    """Return what a row looks like on the sheet, at the size it has there."""
    image = _fitted(decoded(rows["image"][place].as_py(), name))
    mask = rows["mask"][place].as_py() if "mask" in rows.column_names else None
    return image if mask is None else panel(image, mask)


def _fitted(image: Image.Image) -> Image.Image:
    """Return a small image enlarged by a whole factor, a large one shrunk."""
    longest = max(image.size)
    if longest > 2 * CELL_PX:
        image.thumbnail((2 * CELL_PX, 2 * CELL_PX), Image.Resampling.LANCZOS)
        return image
    factor = max(1, -(-CELL_PX // longest))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _paste(
    sheet: Image.Image,
    shown: Sequence[tuple[Image.Image, bool]],
    top: int,
    columns: int,
    cell: tuple[int, int],
) -> None:
    """Paste images in lines from `top` down, in cells (width, height)."""
    for number, (image, accepted) in enumerate(shown):
        x = GAP_PX + number % columns * (cell[0] + GAP_PX)
        y = top + number // columns * (cell[1] + GAP_PX)
        sheet.paste(image, (x, y))
        if not accepted:
            box = (x - 2, y - 2, x + image.width + 1, y + image.height + 1)
            ImageDraw.Draw(sheet).rectangle(box, outline=REFUSED, width=2)


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the one font of sheets and strips."""
    return ImageFont.load_default(14)
