"""The terms of style guidance: what each measures, one number per image; no network is run here.

Every term is a mean over all but the first axis, so that its weight means the same at every size
and an image's gradient does not depend on its neighbours.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATCHES = 256
"""Positions a map that are compared."""
TEMPERATURE = 0.07


def squared(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference (B,) of two tensors (B, ...)."""
    return (first - second).square().flatten(1).mean(1)


def squared_all(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the mean of `squared` over several features."""
    return torch.stack([squared(a, b) for a, b in zip(first, second, strict=True)]).mean(0)


def beyond(values: Tensor) -> Tensor:
    """Return the mean squared excess (B,) of values (B, ...) beyond [-1, 1]."""
    return squared(values, values.clamp(-1, 1))


def noise_mixed(clean: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    """Return sqrt(1 - a) x0 + (1 - sqrt(1 - a)) x_t for the noise level a = alphas_cumprod.

    Source: diffuse-gen, after K. Crowson's guided diffusion.
    """
    share = (1 - alpha).sqrt()
    return share * clean + (1 - share) * noisy


def patch_contrast(
    current: Sequence[Tensor], source: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> Tensor:
    """Return how badly (B,) each patch of `current` finds its own place in `source`.

    Args:
        current: feature maps (B, C, h, w), one per layer.
        source: the same of the source.
        generators: one per image; they choose the positions.

    Source: T. Park et al., Contrastive Learning for Unpaired Image-to-Image Translation, 2020,
    equation 3, within one image.
    """
    return torch.stack(
        [_layer_contrast(now, then, generators) for now, then in zip(current, source, strict=True)]
    ).mean(0)


def _layer_contrast(now: Tensor, then: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    places = [_positions(now, generator) for generator in generators]
    query, key = _patches(now, places), _patches(then, places)
    logits = query.transpose(1, 2) @ key / TEMPERATURE  # (B, P, P)
    own = torch.diagonal(logits, dim1=1, dim2=2)
    return (logits.logsumexp(2) - own).mean(1)


def _patches(maps: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Return (B, C, P) of length 1: each image's maps at its own positions."""
    chosen = [each.flatten(1)[:, place] for each, place in zip(maps, places, strict=True)]
    return F.normalize(torch.stack(chosen), dim=1)


def _positions(maps: Tensor, generator: torch.Generator) -> Tensor:
    count = maps.shape[2] * maps.shape[3]
    return torch.randperm(count, generator=generator)[:PATCHES].to(maps.device)
