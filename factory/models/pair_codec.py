"""Image + mask pairs as one tensor and back: K - 1 mask channels in [-1, 1], folded with the image.

Class k > 0 has a channel of its own, +1 inside and -1 outside; class 0 is where none exceeds the
threshold. In pixel form image and mask are folded alike (space to depth). In latent form the image
is an autoencoder's latents and the mask is folded onto their grid, which loses nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from factory.arrays import Mask
from factory.device import in_slices
from factory.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCodec:
    """How the pairs of one generator lie in its tensor; `vae` is None in pixel form."""

    num_classes: int
    fold: int = 1
    vae: Any = None

    @property
    def image_channels(self) -> int:
        """Channels of the image part."""
        return 3 * self.fold**2 if self.vae is None else int(self.vae.config.latent_channels)

    def shape(self, size_px: int) -> tuple[int, int, int]:
        """Return (C, h, w) of a pair of side `size_px`.

        Raises:
            ConfigError: a side that cannot be folded.
        """
        if size_px % self.fold:
            raise ConfigError(
                f"images of {size_px} px cannot be folded by {self.fold}",
                remedy=f"Choose a multiple of {self.fold}",
            )
        side = size_px // self.fold
        return (self.image_channels + (self.num_classes - 1) * self.fold**2, side, side)

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return (B, C, h, w) from images (B, 3, H, W) in [-1, 1] and class indices (B, H, W)."""
        return self.joined(self.encode_images(images), masks)

    def joined(self, image: Tensor, masks: Tensor) -> Tensor:
        """Return (B, C, h, w) from an image part that is encoded already and class indices."""
        planes = F.pixel_unshuffle(to_planes(masks, self.num_classes), self.fold)
        return torch.cat([image, planes.to(image.device)], dim=1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the image part: folded pixels, or the mean of scaled latents."""
        if self.vae is None:
            return F.pixel_unshuffle(images, self.fold)
        latents: Tensor = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode().float()
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled

    def decode(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) in about [-1, 1] and mask planes (B, K - 1, H, W)."""
        image, planes = pairs[:, : self.image_channels], pairs[:, self.image_channels :]
        return self.decode_images(image), F.pixel_shuffle(planes, self.fold)

    def decode_images(self, image: Tensor) -> Tensor:
        """Return images (B, 3, H, W) of the image part (B, c, h, w)."""
        if self.vae is None:
            return F.pixel_shuffle(image, self.fold)
        unscaled = (image / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = image.shape[2] * image.shape[3] * self.fold**2
        decoded = in_slices(lambda part: self.vae.decode(part).sample, unscaled, pixels=pixels)
        return decoded.float()

    def spread(self, region: Tensor) -> Tensor:
        """Return (B, C, h, w) of 0 and 1 from a region (B, H, W) of pixels: what belongs to it.

        A latent belongs to the region as soon as one of its pixels does.
        """
        pixels = region[:, None].float()
        folded = F.pixel_unshuffle(pixels, self.fold)
        mask = folded.repeat(1, self.num_classes - 1, 1, 1)
        image = folded.repeat(1, 3, 1, 1)
        if self.vae is not None:
            latent = folded.amax(1, keepdim=True)
            image = latent.repeat(1, self.image_channels, 1, 1)
        return torch.cat([image, mask], dim=1)


def to_planes(masks: Tensor, num_classes: int) -> Tensor:
    """Return (B, K - 1, H, W) of -1 and +1 from class indices (B, H, W)."""
    classes = torch.arange(1, num_classes, device=masks.device)[None, :, None, None]
    return (masks[:, None] == classes).float() * 2 - 1


def to_indices(planes: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Return class indices (B, H, W) uint8 from planes (B, K - 1, H, W).

    The class whose plane is highest, if that is above `threshold`; else class 0.
    """
    highest, which = planes.max(dim=1)
    return torch.where(highest > threshold, which + 1, 0).to(torch.uint8)


def class_indices(mask: Mask, mask_values: Sequence[int], *, name: str) -> Mask:
    """Return class indices (H, W) of a mask as stored, whose class k has value `mask_values[k]`.

    Raises:
        DataError: a value that belongs to no class.
    """
    table = np.full(256, 255, np.uint8)
    table[list(mask_values)] = np.arange(len(mask_values))
    known = np.zeros(256, bool)
    known[list(mask_values)] = True
    if not known[mask].all():
        odd = int(mask[~known[mask]][0])
        raise DataError(
            f"mask of {name!r} holds the value {odd}, which is none of {list(mask_values)}",
            remedy="Correct the mask, or name this value as a class of its own (mask_values)",
        )
    indices: Mask = table[mask]
    return indices


def class_index_array(masks: Mask, mask_values: Sequence[int], *, names: Sequence[str]) -> Mask:
    """Return class indices (N, H, W) of masks as stored, see `class_indices`.

    Raises:
        DataError: a value that belongs to no class.
    """
    pairs = zip(names, masks, strict=True)
    return np.stack([class_indices(mask, mask_values, name=name) for name, mask in pairs])
