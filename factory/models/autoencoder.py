"""A small KL autoencoder of our own: images (B, 3, H, W) in [-1, 1] to latents (B, 4, H/4, W/4)."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def small_autoencoder(*, sample_size_px: int = 64, latent_channels: int = 4) -> AutoencoderKL:
    """Return an untrained `AutoencoderKL` of 1.8 M parameters that shrinks each side by 4.

    The layout is Stable Diffusion's, so `StableDiffusionPipeline` drives it unchanged. No attention
    in the middle: at 16x16 latents its receptive field already spans a cell.
    """
    return AutoencoderKL(
        sample_size=sample_size_px,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def measure_scaling_factor(autoencoder: AutoencoderKL, images: Tensor) -> float:
    """Return 1 / standard deviation of the latents of `images`: scaled latents have unit variance.

    Source: R. Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022,
    appendix G.

    Args:
        images: (N, 3, H, W) in [-1, 1], a few hundred training images.
    """
    return float(1 / autoencoder.encode(images).latent_dist.mode().flatten().std())
