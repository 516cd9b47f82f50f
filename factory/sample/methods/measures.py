"""What is measured along an inversion: one number per image that tells how far its look is gone.

Each measure takes a `Rung` of the inversion itself, so that measuring costs no evaluation of the
network.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from factory.errors import ConfigError
from factory.models.experts import Expert
from factory.sample.methods.inversion import Rung

Measure = Callable[[Rung], Tensor]
"""A rung of B images to (B,) numbers."""

BAND = 9
"""Places each side of the centre that the original averages."""
CUTOFF = 0.25
"""Cycles per pixel, half of the Nyquist frequency, above which energy counts as high."""

_LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Return (B, h, w): the luma of RGB (ITU-R BT.601), the mean of other channels."""
    if images.shape[1] == 3:
        return (images * images.new_tensor(_LUMA)[:, None, None]).sum(1)
    return images.mean(1)


def centre_row_band(images: Tensor) -> Tensor:
    """Return (B,) the original's feature of (B, C, h, w): magnitudes on the spectrum's centre row.

    Its places -10 .. -2 and +1 .. +9 from the centre, as far as the image is wide: although called
    high-frequency there, these are the lowest horizontal frequencies beside the mean.

    Raises:
        ConfigError: an image narrower than 4 pixels.
    """
    width = images.shape[-1]
    if width < 4:
        raise ConfigError(f"images of width {width} have no band", remedy="Use 4 pixels or more")
    rows = torch.fft.fftshift(torch.fft.fft2(grey(images)), dim=(-2, -1))[:, images.shape[-2] // 2]
    centre = width // 2
    left = rows[:, max(0, centre - 1 - BAND) : centre - 1]
    right = rows[:, centre + 1 : centre + 1 + BAND]
    return torch.cat([left, right], dim=1).abs().mean(1)


def radial_high_frequency(images: Tensor, *, cutoff: float = CUTOFF) -> Tensor:
    """Return (B,) the share of the energy of (B, C, h, w) at frequencies above `cutoff`, 0 .. 1.

    Frequencies are radial, in cycles per pixel, up to 0.5 along an axis; the mean does not count.
    """
    height, width = images.shape[-2:]
    energy = torch.fft.fft2(grey(images)).abs() ** 2
    vertical = torch.fft.fftfreq(height, device=images.device)[:, None]
    horizontal = torch.fft.fftfreq(width, device=images.device)[None]
    radius = torch.hypot(vertical, horizontal)
    high = energy[:, radius > cutoff].sum(1)
    ratio: Tensor = high / energy[:, radius > 0].sum(1).clamp(min=torch.finfo(energy.dtype).tiny)
    return ratio


def expert_distance(
    expert: Expert, sources: Tensor, *, decode: Callable[[Tensor], Tensor] = lambda x: x
) -> Measure:
    """Return a measure: 1 - cosine of an expert's features of the source and of what is left of it.

    An expert knows clean images, so it looks at the clean estimate of every level.

    Args:
        expert: frozen.
        sources: (B, 3, H, W) in [-1, 1], the images that are inverted.
        decode: latents to images.
    """
    with torch.inference_mode():
        wanted = expert.features(sources)

    def measure(rung: Rung) -> Tensor:
        shown = sources if rung.level == 0 else decode(rung.clean).clamp(-1, 1)
        return 1 - F.cosine_similarity(expert.features(shown), wanted)

    return measure


def _of_state(function: Callable[[Tensor], Tensor], rung: Rung) -> Tensor:
    return function(rung.state)


MEASURES: Mapping[str, Measure] = {
    "centre_row": partial(_of_state, centre_row_band),
    "radial": partial(_of_state, radial_high_frequency),
}
"""Name -> measure of the noisy state; 'expert' is `expert_distance`, made for every batch."""
