"""Published pictures: their pixels, and the hash that says that two are the same."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.real.images import BROKEN, MAX_PIXELS


def pixel_sha256(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> str:
    """Return the SHA-256 in hex of an image's shape and raw pixels, and of its mask's if any."""
    parts = (image,) if mask is None else (image, mask)
    return hashlib.sha256(b"mask".join(map(_raw, parts))).hexdigest()


def _raw(pixels: NDArray[np.uint8]) -> bytes:
    return "x".join(map(str, pixels.shape)).encode() + np.ascontiguousarray(pixels).tobytes()


def opened(png: bytes) -> Image.Image:
    """Return a picture of a catalog, decoded; catalogs of others hold what they like.

    Raises:
        OSError: no whole PNG, or one of more pixels than any image has, whatever Pillow raises.
    """
    try:
        picture = Image.open(io.BytesIO(png), formats=("PNG",))
        if (pixels := picture.width * picture.height) > MAX_PIXELS:
            raise OSError(f"{pixels} pixels")
        picture.load()
    except BROKEN as error:
        raise OSError(str(error) or type(error).__name__) from error
    return picture


def published_pixels(
    row: Mapping[str, Any],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the image (H, W, 3) and the mask (H, W) or None of a row of `samples`.

    Raises:
        OSError: see `opened`.
    """
    image = np.asarray(opened(row["image"]["bytes"]).convert("RGB"))
    stored = row.get("mask")
    return image, None if stored is None else np.asarray(opened(stored["bytes"]))


def psnr_db(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images."""
    error = float(((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
