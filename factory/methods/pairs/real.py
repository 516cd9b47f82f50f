"""The real pairs that a batch is shown, and what is done at its ends: shapes, pasting, colours.

What is re-drawn around an object and pasted back, how drawn masks are tidied, and whose colours an
image takes. Masks are (H, W) uint8 class indices, regions (H, W) bool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from factory.arrays import Mask, Masks, Pixels
from factory.device import up
from factory.errors import DataError
from factory.methods.pairs.options import PairsOptions
from factory.models.pair_codec import class_indices
from factory.sample.drawn import Drawn
from factory.sample.references import Reference

Region = NDArray[np.bool_]
Image = NDArray[np.uint8]
Colours = NDArray[np.float64]
_FLOOR = 1e-10
"""Least variance along an axis of colour, of values in 0..1: a grey image has none."""


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


def match_colours(image: Colours, target: Colours) -> Colours:
    """Return `image` (..., 3) moved linearly to the mean and covariance of `target` (..., 3).

    The map of least displacement between two Gaussians. Values keep their units and may leave
    their range; nothing is clipped here. Along a colour in which the image does not vary (below
    `_FLOOR`) it is not spread: that would multiply rounding.
    Source: F. Pitie and A. Kokaram, The Linear Monge-Kantorovitch Linear Colour Mapping for
    Example-Based Colour Transfer, 2007, equation 5.
    """
    colours, wanted = image.reshape(-1, 3), target.reshape(-1, 3)
    root = _power(_covariance(colours), 0.5)
    inverse = _power(_covariance(colours), -0.5)
    between = _power(root @ _covariance(wanted) @ root, 0.5)
    moved: Colours = (colours - colours.mean(0)) @ (inverse @ between @ inverse) + wanted.mean(0)
    return moved.reshape(image.shape)


def _covariance(colours: Colours) -> Colours:
    return np.cov(colours, rowvar=False)


def _power(matrix: Colours, exponent: float) -> Colours:
    """Return a power of a symmetric positive matrix (3, 3)."""
    values, vectors = np.linalg.eigh(matrix)
    powered: Colours = (vectors * np.maximum(values, _FLOOR) ** exponent) @ vectors.T
    return powered


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """The real pairs of a batch; masks and regions are empty where the options need none."""

    images: Tensor
    """(B, 3, S, S) in [-1, 1]."""
    masks: Masks = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    """(B, S, S) class indices."""
    regions: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0, 0), bool))
    """(B, S, S): what is re-drawn."""


def read_real(
    shown: Sequence[Reference], options: PairsOptions, *, mask_values: Sequence[int], device: str
) -> Real:
    """Return the references as the options need them.

    Raises:
        DataError: a mask that is missing, or of unknown values.
    """
    images = up(signed([each.image for each in shown]), device)
    if not options.reads_masks:
        return Real(images=images)
    masks = np.stack([_indices(reference, mask_values) for reference in shown])
    if options.inpaint is None:
        return Real(images=images, masks=masks)
    size = pixels_of(options.inpaint.dilation_share, masks.shape[-1])
    return Real(
        images=images, masks=masks, regions=np.stack([dilated(mask, size) for mask in masks])
    )


def finished(
    images: Pixels,
    masks: Pixels,
    shown: Sequence[Reference],
    real: Real | None,
    options: PairsOptions,
) -> Drawn:
    """Return drawn images (B, S, S, 3) and masks with what was known pasted back, if so asked."""
    inpaint = options.inpaint
    if inpaint is not None and inpaint.keep_mask and real is not None:
        masks = real.masks
    if inpaint is None or inpaint.paste == "none" or real is None:
        return Drawn(images=images, masks=masks)
    blend = pixels_of(inpaint.blend_share, images.shape[1]) if inpaint.paste == "blend" else 0
    whole = [
        pasted(image, reference.image, region, blend_px=blend)
        for image, reference, region in zip(images, shown, real.regions, strict=True)
    ]
    return Drawn(images=np.stack(whole), masks=np.where(real.regions, masks, real.masks))


def recoloured(images: Tensor, shown: Sequence[Reference]) -> Tensor:
    """Return images (B, 3, H, W) with the colours of their targets."""
    drawn = images.permute(0, 2, 3, 1).cpu().double().numpy()
    moved = [
        match_colours(image, (reference.target or reference).image / 127.5 - 1)
        for image, reference in zip(drawn, shown, strict=True)
    ]
    return torch.from_numpy(np.stack(moved).transpose(0, 3, 1, 2)).float()


def signed(images: Sequence[Pixels]) -> Tensor:
    """Return (B, 3, S, S) in [-1, 1] of images (S, S, 3)."""
    moved = np.stack(images).transpose(0, 3, 1, 2) / 127.5 - 1
    return torch.from_numpy(moved.astype(np.float32))


def _indices(reference: Reference, mask_values: Sequence[int]) -> Pixels:
    if reference.mask is None:
        raise DataError(
            f"image {reference.id!r} has no mask", remedy="Choose references that have one"
        )
    return class_indices(reference.mask, mask_values, name=reference.id)
