"""Autoencoders: images (B, 3, H, W) in [-1, 1] to latents (B, C, H/4, W/4); a small KL one."""

from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from factory.errors import ConfigError
from factory.models.patch_autoencoder import PatchAutoencoder

Autoencoder: TypeAlias = AutoencoderKL | PatchAutoencoder
"""What is fitted or trained here; both are asked for the same."""


def small_autoencoder(
    *,
    sample_size_px: int = 64,
    latent_channels: int = 4,
    channels: tuple[int, ...] = (32, 64, 96),
    layers_per_block: int = 1,
    norm_num_groups: int = 16,
) -> AutoencoderKL:
    """Return an untrained `AutoencoderKL`; the default has 1.8 M parameters.

    Every level of `channels` but the first halves the sides: the default shrinks them by 4. The
    layout is Stable Diffusion's, so `StableDiffusionPipeline` drives it unchanged. No attention
    in the middle: at 16x16 latents its receptive field already spans a cell.

    Raises:
        ConfigError: channels that the groups do not divide.
    """
    if odd := [width for width in channels if width % norm_num_groups]:
        raise ConfigError(
            f"{odd[0]} channels of the autoencoder cannot be divided by {norm_num_groups} groups",
            remedy=f"Choose multiples of {norm_num_groups}",
        )
    return AutoencoderKL(
        sample_size=sample_size_px,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        mid_block_add_attention=False,
    )


def shrinkage(autoencoder: Autoencoder) -> int:
    """Return how many pixels wide a place of the latents is."""
    levels: int = len(autoencoder.config.block_out_channels)
    return int(2 ** (levels - 1))


def scaled(autoencoder: Any, latents: Tensor) -> Tensor:
    """Return what a denoiser sees of an autoencoder's latents (B, C, h, w): about unit variance.

    By its own mean and deviation of every channel, or by its shift and scaling factor; one without
    a shift is scaled alone.
    """
    config = autoencoder.config
    shift: Any = getattr(config, "shift_factor", None) or 0.0
    deviation: Any = 1.0
    told = [getattr(config, f"latents_{name}", None) for name in ("mean", "std")]
    if None not in told:
        shift, deviation = (torch.tensor(each).view(1, -1, 1, 1).to(latents) for each in told)
    found: Tensor = (latents - shift) * config.scaling_factor / deviation
    return found


def last_weights(autoencoder: Autoencoder) -> Tensor:
    """Return the weights that write the pixels."""
    decoder = autoencoder.decoder
    weights: Tensor = getattr(decoder, "conv_out", decoder).weight
    return weights


@torch.no_grad()
def measure_scaling_factor(autoencoder: Autoencoder, images: Tensor) -> float:
    """Return 1 / standard deviation of the latents of `images`: scaled latents have unit variance.

    Source: R. Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022,
    appendix G.

    Args:
        images: (N, 3, H, W) in [-1, 1], a few hundred training images.
    """
    return float(1 / autoencoder.encode(images).latent_dist.mode().flatten().std())
