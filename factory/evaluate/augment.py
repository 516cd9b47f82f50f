"""Augmentation of training batches, image by image: turns, crops, colour, stain, blur.

Never called for val or test. Everything is drawn from one generator of the CPU, so that a step
repeats, and is done where the images lie.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from factory.device import up
from factory.evaluate.config import Augmentation
from factory.finetune.latents import TURNS, turn

RGB_OF_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Absorption of haematoxylin, eosin and DAB in red, green, blue (A. Ruifrok and D. Johnston,
Quantification of Histochemical Staining by Color Deconvolution, 2001, table 1)."""
_DARKEST = 1e-6
_BRIGHTNESS = (0.05, 0.95)


def augmented(
    settings: Augmentation, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (B, 3, S, S) in [-1, 1] varied in every way, their turns and grids."""
    turns, grids = geometry(settings, len(images), generator)
    turned = (apply_geometry(images, turns, grids) + 1) / 2
    return colours(settings, turned.clamp(0, 1), generator) * 2 - 1, turns, grids


def geometry(
    settings: Augmentation, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return turns (B,) and sampling grids (B, 2, 3) for `apply_geometry`."""
    turns = torch.randint(0, TURNS if settings.turns else 1, (batch,), generator=generator)
    share = settings.min_crop + (1 - settings.min_crop) * torch.rand(batch, generator=generator)
    shift = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - share)[:, None]
    grids = torch.zeros(batch, 2, 3)
    grids[:, 0, 0] = grids[:, 1, 1] = share
    grids[:, :, 2] = shift
    return turns, grids


def colours(settings: Augmentation, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] with other light, colour, stain and sharpness."""
    count, place = len(images), images.device

    def gain(most: float) -> Tensor:
        drawn = 1 + most * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        return up(drawn, place)

    images = images * gain(settings.brightness)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = middle + (images - middle) * gain(settings.contrast)
    grey = images.mean(1, keepdim=True)
    images = (grey + (images - grey) * gain(settings.saturation)).clamp(0, 1)
    if settings.hed:
        images = jitter_stains(images, settings.hed, generator)
    blurred = torch.rand(count, generator=generator) < settings.blur
    return torch.where(up(blurred[:, None, None, None], place), _blur(images), images)


def apply_geometry(
    images: Tensor, turns: Tensor, grids: Tensor, *, mode: str = "bilinear"
) -> Tensor:
    """Return (B, C, S, S) turned and cropped; `mode` 'nearest' keeps the values of masks.

    `turns` and `grids` are of the CPU: nobody waits for a GPU to be told of them.
    """
    turned = torch.cat([turn(i[None], n) for i, n in zip(images, turns.tolist(), strict=True)])
    if bool((grids[:, 0, 0] == 1).all()):
        return turned
    places = F.affine_grid(up(grids, turned.device), list(turned.shape), align_corners=False)
    return F.grid_sample(
        turned.float(), places, mode=mode, padding_mode="border", align_corners=False
    )


def jitter_stains(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] with each stain's amount a -> a (1 + s) + b.

    s and b are uniform in +-most, per image and stain (D. Tellez et al., 2018). Almost black or
    white images stay as they are: they hold no stain.
    """
    mixing = torch.tensor(RGB_OF_HED)
    unmixing, mixing = (up(m, images.device) for m in (torch.linalg.inv(mixing), mixing))
    density = images.clamp(min=_DARKEST).log() / math.log(_DARKEST)
    stains = torch.einsum("bchw,cs->bshw", density, unmixing)
    jitter = most * (2 * torch.rand(2, len(images), 3, 1, 1, generator=generator) - 1)
    scale, shift = up(jitter, images.device)
    mixed = torch.einsum("bshw,sc->bchw", stains * (1 + scale) + shift, mixing)
    out = (mixed * math.log(_DARKEST)).exp().clamp(0, 1)
    light = images.mean((1, 2, 3), keepdim=True)
    return torch.where((light > _BRIGHTNESS[0]) & (light < _BRIGHTNESS[1]), out, images)


def _blur(images: Tensor, sigma_px: float = 0.7) -> Tensor:
    weights = torch.exp(-(torch.arange(-1, 2.0) ** 2) / (2 * sigma_px**2))
    kernel = up(weights / weights.sum(), images.device).expand(images.shape[1], 1, 1, 3)
    wide = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = F.conv2d(wide, kernel, groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])
