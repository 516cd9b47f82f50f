"""Images that look like something: discs, larger from class to class, on a rough ground."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from catalog import SampleSink, write_batch
from catalog.gallery.pictures import png_bytes
from tests.fakes.rows import CLASSES, rejected, rows_table, sample_row


def disc(class_id: int, number: int, *, size_px: int = 32) -> bytes:
    """A disc of the size and stain of its class, in a place of its own, as PNG."""
    rng = np.random.default_rng([class_id, number])
    ys, xs = np.mgrid[:size_px, :size_px] - size_px / 2 + rng.uniform(-1, 1, (2, 1, 1))
    inside = np.hypot(ys, xs) < size_px * (0.12 + 0.07 * class_id)
    stain = np.array([60 + 30 * class_id, 60, 160 - 20 * class_id])
    ground = rng.normal(200, 6, (size_px, size_px, 3))
    pixels = np.where(inside[..., None], stain + rng.normal(0, 6, ground.shape), ground)
    return png_bytes(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def disc_rows(first: int, count: int, *, recipe: str = "discs", size_px: int = 32) -> pa.Table:
    """Rows first, first + 1, ...; every tenth is rejected as blurred, every 25th as a copy."""
    rows = []
    for n in range(first, first + count):
        row = sample_row(n, recipe=recipe, height_px=size_px, width_px=size_px)
        png = disc(int(str(row["class_id"])), n, size_px=size_px)
        row["image"] = {"bytes": png, "path": f"{row['image_id']}.png"}
        if n % 25 == 24:
            row = rejected(row, "copy: 0.4 of the distance that unseen real images keep")
        elif n % 10 == 9:
            row = rejected(row, "blur: sharpness 0.1 below 0.2")
        rows.append(row)
    return rows_table(rows)


def publish_discs(
    uri: Path, count: int, *, run_id: str = "run-discs", recipe: str = "discs", size_px: int = 32
) -> list[str]:
    """Publish `count` discs in batches of 20 at most; return their ids."""
    ids: list[str] = []
    for batch, first in enumerate(range(0, count, 20)):
        rows = disc_rows(first, min(20, count - first), recipe=recipe, size_px=size_px)
        file = write_batch(uri, run_id=run_id, batch_index=batch, rows=rows)
        SampleSink(uri, run_id).commit([file])
        ids += rows["image_id"].to_pylist()
    return ids


__all__ = ["CLASSES", "disc", "disc_rows", "publish_discs"]
