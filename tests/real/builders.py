"""Small real-looking files for the tests of factory/real."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, width: int = 12, height: int = 10) -> np.ndarray:
    """Return coloured noise (height, width, 3): two seeds never look alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, width: int = 12, height: int = 10) -> bytes:
    return encoded(pixels(seed, width, height))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def class_folder(root: Path, *, images: str = "", masks: bool = False) -> Path:
    """Write classes `a` and `b` of two images each, below `root/images` or `root`."""
    for n, name in enumerate(["a/1", "a/2", "b/1", "b/2"]):
        put(root / images / f"{name}.png", png(n))
        if masks:
            put(root / "masks" / f"{name}.png", encoded(np.full((10, 12), n * 40, np.uint8)))
    return root


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
