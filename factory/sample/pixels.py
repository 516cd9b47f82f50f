"""Identity of pixels: the hash that says two images are the same, whatever file holds them."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def pixel_sha256(image: NDArray[np.uint8]) -> str:
    """Return the SHA-256 in hex of an image's shape and raw pixels."""
    shape = "x".join(map(str, image.shape)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).hexdigest()


def psnr_db(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images."""
    error = float(((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
