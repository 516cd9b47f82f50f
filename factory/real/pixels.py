"""Identity of pixels: the hash that says two images are the same, whatever file holds them."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixel_sha256(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> str:
    """Return the SHA-256 in hex of an image's shape and raw pixels, and of its mask's if any."""
    parts = (image,) if mask is None else (image, mask)
    return hashlib.sha256(b"mask".join(map(_raw, parts))).hexdigest()


def _raw(pixels: NDArray[np.uint8]) -> bytes:
    return "x".join(map(str, pixels.shape)).encode() + np.ascontiguousarray(pixels).tobytes()


def published_pixels(
    row: Mapping[str, Any],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the image (H, W, 3) and the mask (H, W) or None of a row of `samples`.

    Raises:
        OSError: its PNG cannot be decoded.
    """
    image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
    stored = row.get("mask")
    return image, None if stored is None else np.asarray(Image.open(io.BytesIO(stored["bytes"])))


def psnr_db(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images."""
    error = float(((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
