"""Shapes of masks: what is re-drawn around an object, how it is pasted back, how masks are tidied.

Masks are (H, W) uint8 class indices, regions (H, W) bool.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.uint8]
Region = NDArray[np.bool_]
Image = NDArray[np.uint8]


def ellipse(diameter_px: int) -> Region:
    """Return the disc (d, d) of this diameter: its pixels' centres lie within the radius."""
    offsets = np.arange(diameter_px) - (diameter_px - 1) / 2
    distance = np.hypot(offsets[:, None], offsets[None, :])
    disc: Region = distance <= diameter_px / 2
    return disc


def pixels_of(share: float, size_px: int) -> int:
    """Return a length given as a share of the side, in pixels, rounded; 0 only for 0."""
    return max(1, round(share * size_px)) if share > 0 else 0


def dilated(mask: Mask, diameter_px: int) -> Region:
    """Return the region of all objects of `mask`, grown by a disc of `diameter_px`, if any."""
    region: Region = mask > 0
    if diameter_px > 1:
        region = ndimage.binary_dilation(region, structure=ellipse(diameter_px))
    return region


def blend_weights(region: Region, width_px: int) -> NDArray[np.float64]:
    """Return how much of the new image counts, (H, W) in 0..1: 0 outside `region`, 1 deep inside.

    The ramp lies wholly within the region, so pixels outside stay the real ones; `width_px` 0 is a
    hard edge.
    """
    if width_px <= 0:
        return region.astype(np.float64)
    depth = ndimage.distance_transform_edt(np.pad(region, 1, mode="edge"))[1:-1, 1:-1]
    weights: NDArray[np.float64] = np.clip(depth / (width_px + 1), 0, 1)
    return weights


def pasted(drawn: Image, real: Image, region: Region, *, blend_px: int) -> Image:
    """Return `drawn` (H, W, 3) within `region` and `real` outside, bit for bit."""
    weights = blend_weights(region, blend_px)[..., None]
    mixed = np.rint(weights * drawn + (1 - weights) * real).astype(np.uint8)
    return np.where(region[..., None], mixed, real)


def tidied(
    mask: Mask, *, opening_px: int = 0, min_area_px: int = 0, fill_holes: bool = False
) -> Mask:
    """Return a mask whose objects are opened, filled and large enough; classes stay nested.

    Args:
        mask: class indices.
        opening_px: diameter of the disc of a morphological opening, 0: none.
        min_area_px: smaller connected objects become background.
        fill_holes: background enclosed by an object takes the class that surrounds it most.

    Each step acts on the region of all classes >= k, for k from 1 up, so that a nucleus stays
    inside its cell.
    """
    out = np.zeros_like(mask)
    for level in range(1, int(mask.max(initial=0)) + 1):
        region = mask >= level
        if opening_px > 1:
            region = _within_padding(region, opening_px)
        if fill_holes:
            region = ndimage.binary_fill_holes(region)
        out[_large(region, min_area_px)] = level
    return out


def _within_padding(region: Region, opening_px: int) -> Region:
    """Open `region` as if it went on beyond the border: a cut object is not rounded there."""
    padded = np.pad(region, opening_px, mode="edge")
    opened: Region = ndimage.binary_opening(padded, structure=ellipse(opening_px))
    return opened[opening_px:-opening_px, opening_px:-opening_px]


def _large(region: Region, min_area_px: int) -> Region:
    if min_area_px <= 1:
        return region
    labels, _ = ndimage.label(region)
    areas = np.bincount(labels.ravel())
    kept: Region = (areas >= min_area_px)[labels] & region
    return kept


def each(masks: Mask, change: Callable[[Mask], Mask]) -> Mask:
    """Return (B, H, W) masks, each changed by itself."""
    return np.stack([change(mask) for mask in masks])
