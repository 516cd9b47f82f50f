"""Smear: a demo dataset of blood cells drawn by code, for tests, benchmarks and users without data.

Five white cells (basophil, eosinophil, lymphocyte, monocyte, neutrophil) with exact masks
(0 background, 1 cytoplasm, 2 nucleus). Every image depends on seed, index and style alone.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.atomic import new_folder, writing
from factory.errors import DataError
from factory.real.dataset import RealImage
from factory.real.images import encode_png, encode_pnm
from factory.real.smear_cells import KINDS
from factory.real.smear_paint import Scene, paint
from factory.real.stored import InlineBytes

CLASS_NAMES = tuple(kind.name for kind in KINDS)
SLIDE_IMAGES = len(KINDS)
"""Images per drawn slide (their group): one of each class, under one stain and light."""
_RANGES = {"stain_hue": (-1, 1), "zoom": (0.5, 1.6), "background": (0, 1), "red_cells": (0, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmearStyle:
    """The domain of a drawn set: two styles make a pair of domains for transfer experiments."""

    stain_hue: float = 0.0
    """-1 blue-green .. 0 May-Gruenwald-Giemsa .. 1 red-brown."""
    zoom: float = 1.0
    """Magnification, 0.5 .. 1.6."""
    background: float = 0.0
    """Colour of the empty slide: 0 warm .. 1 cool."""
    red_cells: float = 1.0
    """How crowded the smear is, 0 .. 3; 1 is about six red cells in view."""

    def __post_init__(self) -> None:
        for knob, (low, high) in _RANGES.items():
            value = getattr(self, knob)
            if not low <= value <= high:
                raise DataError(f"smear {knob} is {value}", remedy=f"Choose it in {low} .. {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCell:
    """One drawn image: `pixels` RGB (H, W, 3), `mask` (H, W) of 0, 1, 2, and what it shows."""

    id: str
    class_name: str
    slide: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    attributes: dict[str, str]


def draw_cell(
    index: int, *, seed: int = 0, size_px: int = 64, style: SmearStyle | None = None
) -> DrawnCell:
    """Draw image `index` of the endless set `seed`; classes take turns.

    Randomness is counter-based (Philox keyed by seed and index), so image 7 is the same whether
    it is drawn alone, first, or on another worker. The same index at another size is the same
    cell; stain and light vary a little from slide to slide around `style`.

    Raises:
        DataError: a negative index or seed, or size_px outside 16..1024.
    """
    if not (16 <= size_px <= 1024 and 0 <= index < 2**62 and 0 <= seed < 2**63):
        raise DataError(
            f"smear image {index} of seed {seed} at {size_px} px cannot be drawn",
            remedy="Use 16..1024 px, and an index and seed from 0",
        )
    kind, slide = KINDS[index % len(KINDS)], index // SLIDE_IMAGES
    cell = paint(kind, _scene(seed, slide, style or SmearStyle()), _rng(seed, 2 * index), size_px)
    middle = sum(kind.radius) / 2
    return DrawnCell(
        id=f"{kind.name}/{index:06d}",
        class_name=kind.name,
        slide=f"slide-{slide:05d}",
        pixels=cell.pixels,
        mask=cell.mask,
        attributes={
            "cell_size": "big" if cell.radius > middle else "small",
            "nucleus_shape": cell.nucleus_shape,
            "granules": kind.granules[0].words if kind.granules else "none",
        },
    )


def smear_items(
    count: int, *, seed: int = 0, size_px: int = 64, style: SmearStyle | None = None
) -> Iterator[RealImage]:
    """Yield the first `count` images of set `seed` as entries of a dataset, held in memory.

    Raises:
        DataError: as `draw_cell`, or count < 1.
    """
    for cell in _cells(count, seed, size_px, style):
        yield RealImage(
            id=cell.id,
            label=cell.class_name,
            group=cell.slide,
            attributes=cell.attributes,
            image=InlineBytes(name=f"smear {cell.id}", data=encode_pnm(cell.pixels)),
            mask=InlineBytes(name=f"smear mask {cell.id}", data=encode_pnm(cell.mask)),
        )


def write_smear(
    folder: Path, count: int, *, seed: int = 0, size_px: int = 64, style: SmearStyle | None = None
) -> None:
    """Write `count` images, masks and `metadata.csv` as a class folder; whole or not at all.

    Raises:
        DataError: as `smear_items`, or `folder` holds something already.
        OutputError: `folder` cannot be written.
    """
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty", remedy="Choose a new folder")
        with new_folder(folder) as work:
            _write_cells(work, _cells(count, seed, size_px, style))


def _write_cells(work: Path, cells: Iterable[DrawnCell]) -> None:
    table = io.StringIO()
    writer = None
    for cell in cells:
        names = {"file": f"images/{cell.id}.png", "mask": f"masks/{cell.id}.png"}
        for name, pixels in zip(names.values(), (cell.pixels, cell.mask), strict=True):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(encode_png(pixels))
        row = {**names, "class": cell.class_name, "slide": cell.slide, **cell.attributes}
        if writer is None:
            writer = csv.DictWriter(table, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    (work / "metadata.csv").write_text(table.getvalue())


def _cells(count: int, seed: int, size_px: int, style: SmearStyle | None) -> Iterator[DrawnCell]:
    if count < 1:
        raise DataError(f"{count} smear images asked", remedy="Ask for at least 1")
    for index in range(count):
        yield draw_cell(index, seed=seed, size_px=size_px, style=style)


def _scene(seed: int, slide: int, style: SmearStyle) -> Scene:
    rng = _rng(seed, 2 * slide + 1)
    return Scene(
        stain_hue=style.stain_hue + rng.normal(0, 0.08),
        stain_strength=float(np.clip(rng.normal(1, 0.06), 0.8, 1.2)),
        zoom=style.zoom,
        background=float(np.clip(style.background + rng.normal(0, 0.06), 0, 1)),
        red_cells=style.red_cells * rng.uniform(0.6, 1.3),
    )


def _rng(seed: int, counter: int) -> np.random.Generator:
    """Return the generator of one image (even counters) or one slide (odd ones)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, counter], np.uint64)))
