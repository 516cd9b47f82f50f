"""A strip: a real source and the images bridged from it, deeper and deeper, with their labels."""

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from catalog.boundary import json_object
from catalog.query import quoted, sql
from catalog.schema import ACCEPTED
from catalog.sheet import CAPTION_PX, GAP_PX, INK, PAPER, REFUSED, decoded, font
from catalog.table import Catalog
from factory.atomic import write_bytes, writing
from factory.errors import CatalogError, DataError

CELL_PX = 128
"""Smaller images are enlarged by a whole factor up to this side; larger ones are shrunk to it."""
LABEL_PX = 20
FRAME_MS = 350
HOLD_MS = 1200
"""How long an animation shows an image, and how long the first and the last one."""
MOVING = {".gif": "GIF", ".webp": "WEBP"}

COLUMNS = (
    "run_id",
    "recipe_digest",
    "recipe_index",
    "class_name",
    "class_names",
    "soft_label",
    "bridge_depth",
    "gate_status",
    "image",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progression:
    """The images of one source in one direction, the shallowest first."""

    run_id: str
    title: str
    images: tuple[Image.Image, ...]
    labels: tuple[str, ...]
    accepted: tuple[bool, ...]


def progressions_of(catalog: Catalog, source_id: str) -> list[Progression]:
    """Return the progressions of a source, in order of their target and run.

    Only their own images are read, so a catalog of any size will do.

    Raises:
        CatalogError: no image was bridged from it.
    """
    bridged = "FROM samples WHERE bridge_depth IS NOT NULL"
    ids = sql(
        catalog, f"SELECT image_id {bridged} AND list_contains(reference_ids, {quoted(source_id)})"
    ).column("image_id")
    if not ids:
        known = sql(catalog, f"SELECT min(reference_ids[1]) AS id {bridged}").to_pylist()[0]["id"]
        raise CatalogError(
            f"no image of {catalog.named} was bridged from {source_id!r}",
            remedy=f"Sources look like {known!r}" if known else "Draw some with method: bridge",
        )
    groups: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in catalog.rows(ids.to_pylist(), columns=COLUMNS).to_pylist():
        groups[row["class_name"], row["run_id"], row["recipe_digest"]].append(row)
    return [_progression(groups[key]) for key in sorted(groups)]


def data_of(catalog: Catalog, run_id: str) -> str | None:
    """Return where a run found its real images, as its configuration says it."""
    config = str(catalog.run(run_id)["config"])
    data = json_object(config, f"the configuration of run {run_id!r}").get("data")
    return None if data is None else str(data)


def source_image(data: str | None, source_id: str) -> Image.Image:
    """Return the central square of a real image, in its own size.

    Raises:
        DataError: no data, or no such image in it.
    """
    from factory.real.images import square
    from factory.real.sources import open_dataset

    if data is None:
        raise DataError("the run names no real images", remedy="Give them with --data")
    dataset = open_dataset(data)
    image = Image.fromarray(dataset.image(dataset.index_of(source_id)))
    return square(image, min(image.size))


def write_strip(
    path: Path, progressions: Sequence[Progression], source: Image.Image | None = None
) -> None:
    """Write a still .png, a line per progression, or an animated .gif or .webp, side by side.

    `source`, the real image, comes first where it is at hand.

    Raises:
        CatalogError: another suffix.
        OutputError: `path` cannot be written.
    """
    suffix = path.suffix.lower()
    buffer = io.BytesIO()
    if suffix == ".png":
        _still(progressions, source).save(buffer, "PNG", optimize=True)
    elif suffix in MOVING:
        first, *rest = _frames(progressions, source)
        times = [HOLD_MS, *[FRAME_MS] * (len(rest) - 1), HOLD_MS][: 1 + len(rest)]
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        first.save(
            buffer, MOVING[suffix], save_all=True, append_images=rest, duration=times, loop=0,
            **options,
        )  # fmt: skip
    else:
        raise CatalogError(
            f"a strip cannot be written as {path.name!r}", remedy="Name it .png, .gif or .webp"
        )
    with writing(path):
        write_bytes(path, buffer.getvalue())


def _progression(rows: list[dict[str, Any]]) -> Progression:
    rows = sorted(rows, key=lambda row: (row["bridge_depth"], row["recipe_index"]))
    last = rows[-1]
    return Progression(
        run_id=last["run_id"],
        title=f"to {last['class_name']}, {last['run_id']}",
        images=tuple(decoded(row["image"], row["class_name"]) for row in rows),
        labels=tuple(f"k={row['recipe_index'] + 1}  {_weights(row)}" for row in rows),
        accepted=tuple(row["gate_status"] == ACCEPTED for row in rows),
    )


def _weights(row: dict[str, Any]) -> str:
    """Return the weight of the target, as the label under an image says it."""
    weights = dict(zip(row["class_names"], row["soft_label"], strict=True))
    return f"{weights.get(row['class_name'], 0.0):.2f}"


def _still(progressions: Sequence[Progression], source: Image.Image | None) -> Image.Image:
    cell = _cell_px(progressions)
    cells = max(len(each.images) for each in progressions) + (source is not None)
    line = CAPTION_PX + cell + LABEL_PX + GAP_PX
    titles = max(int(font().getlength(each.title)) for each in progressions)
    width = max(cells * (cell + GAP_PX), titles + GAP_PX) + GAP_PX
    strip = Image.new("RGB", (width, len(progressions) * line + GAP_PX), PAPER)
    pen = ImageDraw.Draw(strip)
    for number, each in enumerate(progressions):
        top = GAP_PX + number * line
        pen.text((GAP_PX, top), each.title, INK, font())
        for place, (image, label, good) in enumerate(_shown(each, source)):
            x, y = GAP_PX + place * (cell + GAP_PX), top + CAPTION_PX
            _cell(strip, image, (x, y), cell, label, accepted=good)
    return strip


def _frames(progressions: Sequence[Progression], source: Image.Image | None) -> list[Image.Image]:
    """Return pictures that show the same place of every sequence side by side."""
    cell = _cell_px(progressions)
    shown = [_shown(each, source) for each in progressions]
    size = (len(shown) * (cell + GAP_PX) + GAP_PX, cell + LABEL_PX + 2 * GAP_PX)
    frames = []
    for place in range(max(map(len, shown))):
        frame = Image.new("RGB", size, PAPER)
        for column, each in enumerate(shown):
            image, label, good = each[min(place, len(each) - 1)]
            corner = (GAP_PX + column * (cell + GAP_PX), GAP_PX)
            _cell(frame, image, corner, cell, label, accepted=good)
        frames.append(frame)
    return frames


def _shown(each: Progression, source: Image.Image | None) -> list[tuple[Image.Image, str, bool]]:
    first = [] if source is None else [(source, "source", True)]
    return [*first, *zip(each.images, each.labels, each.accepted, strict=True)]


def _cell(
    on: Image.Image, image: Image.Image, corner: tuple[int, int], cell: int, label: str, *,
    accepted: bool,
) -> None:  # fmt: skip
    """Paste an image with its label below it, in a red frame if it was rejected."""
    x, y = corner
    if max(image.size) > cell:
        image = image.copy()
        image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    else:
        factor = cell // max(image.size)
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    on.paste(image, corner)
    pen = ImageDraw.Draw(on)
    if not accepted:
        pen.rectangle((x - 2, y - 2, x + image.width + 1, y + image.height + 1), outline=REFUSED)
    pen.text((x, y + cell + 2), label, INK if accepted else REFUSED, font())


def _cell_px(progressions: Sequence[Progression]) -> int:
    longest = max(max(image.size) for each in progressions for image in each.images)
    return longest * max(1, CELL_PX // longest) if longest < 2 * CELL_PX else 2 * CELL_PX
