"""What a class-conditional denoiser learns from: latents, cached or encoded anew, and conditions.

Turns are drawn per step and image, cached or not, so that both ways show the same pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from factory.finetune.latents import TURNS, encode_turned, to_signed, turn
from factory.finetune.pixels import Pixels
from factory.models.class_conditioning import labels_of, mask_planes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMaterial:
    """Images of one part with what the network is told about each.

    Args:
        pixels: the images and their labels.
        labels: (N,) places of the classes.
        autoencoder: its scaling factor applies; it encodes where nothing is cached.
        latents: (N, T, C, h, w) float16 unscaled, under each of T turns; None: not cached.
        tokens: (K, L) token ids of every class's text, for conditioning 'text'.
        mask_values: the values that the planes of 'concat' stand for.
        num_turns: under how many turns images are shown: 8 or 1.
    """

    pixels: Pixels
    labels: Tensor
    autoencoder: AutoencoderKL
    latents: Tensor | None = None
    tokens: Tensor | None = None
    mask_values: tuple[int, ...] = ()
    num_turns: int = TURNS

    def __len__(self) -> int:
        return len(self.labels)

    @torch.no_grad()
    def clean(self, indices: Tensor, turns: Tensor) -> Tensor:
        """Return scaled latents (B, C, h, w) float32 of `indices` (B,) under `turns` (B,)."""
        factor = float(self.autoencoder.config.scaling_factor)
        if self.latents is not None:
            return self.latents[indices, turns].float() * factor
        device = next(self.autoencoder.parameters()).device
        images = turned(to_signed(self.pixels.images[indices]), turns).to(device)
        with torch.autocast(device.type, enabled=False):
            latents: Tensor = self.autoencoder.encode(images).latent_dist.mode()
        return latents.float() * factor

    def condition(self, indices: Tensor, turns: Tensor) -> Tensor:
        """Return what `ClassConditioned` is told: labels (B,), tokens (B, L), or planes."""
        if self.tokens is not None:
            return self.tokens[self.labels[indices]]
        if self.mask_values:
            assert self.pixels.masks is not None  # noqa: S101 -- for mypy; checked on the way in
            side = self.pixels.images.shape[1] // self.shrinks
            planes = mask_planes(self.pixels.masks[indices], self.mask_values, side=side)
            return turned(planes, turns)
        return self.labels[indices]

    def spread(self, count: int) -> Tensor:
        """Return `count` indices, or all, with the classes in proportion; always the same ones."""
        by_class = self.labels.argsort(stable=True)
        places = torch.linspace(0, len(self) - 1, min(count, len(self)))
        return by_class[places.round().long()]

    @property
    def shrinks(self) -> int:
        """How many times shorter than an image's the sides of its latents are."""
        return int(2 ** (len(self.autoencoder.config.block_out_channels) - 1))


def class_material(
    pixels: Pixels,
    class_names: Sequence[str],
    autoencoder: AutoencoderKL,
    *,
    latents: Tensor | None = None,
    tokens: Tensor | None = None,
    mask_values: tuple[int, ...] = (),
    turns: bool = True,
) -> ClassMaterial:
    """Return the material of `pixels`; see `ClassMaterial`.

    Raises:
        ConfigError: an image of a class that is not among `class_names`.
    """
    return ClassMaterial(
        pixels=pixels,
        labels=labels_of(pixels.labels, class_names),
        autoencoder=autoencoder,
        latents=latents,
        tokens=tokens,
        mask_values=mask_values,
        num_turns=TURNS if turns else 1,
    )


def encode(autoencoder: AutoencoderKL, pixels: Pixels, *, turns: bool) -> Tensor:
    """Return unscaled latents (N, T, C, h, w) float16 under 8 turns, or as they are."""
    latents = encode_turned(autoencoder, pixels.images)
    return latents if turns else latents[:, :1]


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Return (B, C, S, S) images, each under its own of `turns` (B,)."""
    rows = zip(torch.split(images, 1), turns.tolist(), strict=True)
    return torch.cat([turn(image, number) for image, number in rows])


def values_of(masks: Tensor) -> tuple[int, ...]:
    """Return the values that occur in masks (N, S, S), in order."""
    return tuple(int(value) for value in torch.unique(masks))
