"""A keyed mark in an image's pixels: invisible, found again with the key alone.

Spread spectrum (I. Cox et al., Secure spread spectrum watermarking for multimedia, 1997): a secret
pattern of signs is added to the brightness, one grey level strong, on as many pixels as detection
needs. Which of `PATTERNS` patterns, and with which sign, depends on key and image_id, so that
marked images have no difference from others in common.

The detector correlates the high-pass brightness r with every pattern p: z = <r, p> / |r|. For an
image that knows nothing of the key the signs are fair coins, so by Hoeffding's inequality some
|z| exceeds t with a probability of at most 2 * PATTERNS * exp(-t^2 / 2), whatever the image looks
like. The mark survives lossless copies; cutting, resizing and strong JPEG remove it.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from factory.errors import CatalogError

PATTERNS = 16
FALSE_POSITIVES = 1e-6
"""Bound on the share of unmarked images in which a key finds its mark."""
THRESHOLD = math.sqrt(2 * math.log(2 * PATTERNS / FALSE_POSITIVES))
TARGET = THRESHOLD + 3
"""The |z| that a mark is made to have."""
LEVELS = (1, 2)
"""Grey levels by which pixels are moved; 2 everywhere is a PSNR of 42.1 dB, so none is lower."""
LEAST_KEY_BYTES = 16

_STEPS = 16
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a detector saw: the largest |z|, and a bound on its chance in an unmarked image."""

    z: float
    chance: float

    @property
    def marked(self) -> bool:
        """Whether the mark is there, wrong in at most `FALSE_POSITIVES` of unmarked images."""
        return self.z > THRESHOLD


def embed(pixels: Pixels, key: bytes, image_id: str) -> Pixels:
    """Return marked pixels, (H, W) or (H, W, 3); the least change that gives |z| >= `TARGET`.

    Raises:
        CatalogError: an image too small or too rough to carry the mark at 42 dB, or a short key.
    """
    height, width = pixels.shape[:2]
    choice = hashlib.blake2b(image_id.encode(), key=_checked(key)[:64], digest_size=8).digest()
    signs = _pattern(key, choice[0] % PATTERNS, height, width) * (1 if choice[1] % 2 else -1)
    order = np.argsort(_stream(key, f"order/{image_id}", 4 * height * width).view("<u4"))
    lowest, highest = _extremes(pixels)
    for level in LEVELS:
        room = np.where(signs > 0, highest + level <= 255, lowest - level >= 0)
        for step in range(1, _STEPS + 1):
            moved = np.zeros(height * width, np.int16)
            chosen = order[: height * width * step // _STEPS]
            moved[chosen] = level
            change = moved.reshape(height, width) * signs.astype(np.int16) * room
            marked = pixels + (change if pixels.ndim == 2 else change[..., None])
            if float((_residual(marked) * signs).sum()) >= TARGET:
                return np.asarray(marked, np.uint8)
    raise CatalogError(
        f"image {image_id!r} of {width}x{height} pixels cannot carry the watermark unseen",
        remedy="Leave --mark watermark out: it needs about 48x48 pixels, more in rough images",
    )


def detect(pixels: Pixels, key: bytes) -> Found:
    """Look for the mark of `key` in pixels (H, W) or (H, W, 3).

    Raises:
        CatalogError: a short key.
    """
    _checked(key)
    height, width = pixels.shape[:2]
    residual = _residual(pixels)
    patterns = (_pattern(key, number, height, width) for number in range(PATTERNS))
    z = max(abs(float((residual * signs).sum())) for signs in patterns)
    return Found(z=z, chance=min(1.0, 2 * PATTERNS * math.exp(-(z**2) / 2)))


def _residual(pixels: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the high-pass brightness (H, W) with norm 1, or zeros."""
    values = pixels.astype(np.float64)
    light = values if values.ndim == 2 else values.mean(axis=2)
    rough: NDArray[np.float64] = light - ndimage.uniform_filter(light, 3, mode="mirror")
    norm = float(np.linalg.norm(rough))
    return rough / norm if norm > 0 else rough


def _pattern(key: bytes, number: int, height: int, width: int) -> NDArray[np.int8]:
    bits = np.unpackbits(_stream(key, f"{number}/{height}/{width}", -(-height * width // 8)))
    return (2 * bits[: height * width].reshape(height, width).astype(np.int8) - 1).astype(np.int8)


def _stream(key: bytes, purpose: str, size: int) -> NDArray[np.uint8]:
    """Return secret bytes for one purpose; SHAKE-256 stays the same on every machine."""
    text = f"medimage-factory/watermark/{purpose}".encode()
    data = hashlib.shake_256(hashlib.sha256(key).digest() + text).digest(size)
    return np.frombuffer(data, np.uint8)


def _extremes(pixels: Pixels) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    wide = pixels.astype(np.int16)
    return (wide, wide) if wide.ndim == 2 else (wide.min(axis=2), wide.max(axis=2))


def _checked(key: bytes) -> bytes:
    if len(key) < LEAST_KEY_BYTES:
        raise CatalogError(
            f"the watermark key has {len(key)} bytes", remedy=f"Give {LEAST_KEY_BYTES} or more"
        )
    return key
