"""Small real-looking files for the tests of factory/real."""

import csv
import io
import struct
import zlib
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


def png16(values: np.ndarray) -> bytes:
    """Encode 16-bit values (H, W), or (H, W, 2 to 4) as grey or colour with alpha, unpacked."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff16(values: np.ndarray, order: str) -> bytes:
    """Encode 16-bit values (H, W, C) as one uncompressed strip; `order` is "<" or ">"."""
    height, width, channels = values.shape
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1),
        (262, 3, 2 if channels == 3 else 1), (273, 4, 0), (277, 3, channels), (278, 4, height),
        (279, 4, values.size * 2), (284, 3, 1),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, kind, value in tags:
        count = channels if tag == 258 else 1
        value = start if tag == 258 and channels > 1 else value
        value = start + 2 * channels if tag == 273 else value
        short = kind == 3 and count == 1
        out += struct.pack(f"{order}HHI" + ("HH" if short else "I"), tag, kind, count, value,
                           *([0] if short else []))  # fmt: skip
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    return out + struct.pack(f"{order}I", 0) + bits + values.astype(f"{order}u2").tobytes()


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
