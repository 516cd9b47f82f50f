"""The real pairs that a batch is shown: read before the drawing, pasted back and matched after."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.errors import DataError
from factory.models.pair_codec import class_indices
from factory.sample.colour import match_colours
from factory.sample.drawn import Drawn
from factory.sample.methods.pairs_options import PairsOptions
from factory.sample.references import Reference
from factory.sample.regions import dilated, pasted, pixels_of

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """The real pairs of a batch; masks and regions are empty where the options need none."""

    images: Tensor
    """(B, 3, S, S) in [-1, 1]."""
    masks: Pixels = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
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
    images = signed([each.image for each in shown]).to(device)
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
    moved = [
        match_colours(
            image.permute(1, 2, 0).double().cpu().numpy(),
            (reference.target or reference).image / 127.5 - 1,
        )
        for image, reference in zip(images, shown, strict=True)
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
