"""Fits the autoencoder that needs no training: principal components of the patches of images."""

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from factory.finetune.latents import TURNS, to_signed, turn
from factory.models.patch_autoencoder import PatchAutoencoder


@torch.no_grad()
def fit_patch_autoencoder(
    images_uint8: Tensor, *, latent_channels: int, patch_px: int = 4, whitening: float = 0.5
) -> PatchAutoencoder:
    """Return the autoencoder of the strongest principal components of all patches of the images.

    A component of standard deviation s becomes a channel of deviation s^(1 - whitening), and the
    scaling factor brings the channels' root mean square to 1. Patches count under all flips and
    quarter turns: no direction is favoured.

    Args:
        images_uint8: (N, S, S, 3), of the train part.
        latent_channels: components that are kept, of 3 * patch_px**2.
        patch_px: side of a patch.
        whitening: 0 keeps the scale of pixels, in which a denoiser finds coarse before fine; 1
            gives all components one variance, and the finest count as much as the coarsest.
    """
    colour, scatter = _moments(images_uint8, patch_px)
    variances, directions = torch.linalg.eigh(scatter)
    spread = variances.flip(0)[:latent_channels].clamp(min=1e-12).sqrt()
    basis = directions.flip(1)[:, :latent_channels]  # (3 p p, latent_channels), orthonormal
    into, out = basis / spread**whitening, basis * spread**whitening
    fitted = PatchAutoencoder(
        patch_px=patch_px,
        latent_channels=latent_channels,
        scaling_factor=float((spread ** (2 - 2 * whitening)).mean().rsqrt()),
    )
    shape = (latent_channels, 3, patch_px, patch_px)
    fitted.encoder.weight.copy_(into.T.reshape(shape))
    fitted.encoder.bias.copy_(-(colour.repeat_interleave(patch_px**2) @ into))
    fitted.decoder.weight.copy_(out.T.reshape(shape))
    fitted.decoder.bias.copy_(colour)
    autoencoder: PatchAutoencoder = fitted.eval()
    return autoencoder


def _moments(images_uint8: Tensor, patch_px: int) -> tuple[Tensor, Tensor]:
    """Return the mean colour (3,) and the patches' scatter (D, D) about it, over all turns.

    In float64, of values in [-1, 1]; D is 3 * patch_px**2, colours first.
    """
    size = 3 * patch_px**2
    chunks = torch.split(images_uint8, 256)
    sums = torch.stack([to_signed(chunk).double().mean((2, 3)).sum(0) for chunk in chunks])
    colour = sums.sum(0) / len(images_uint8)
    scatter, count = torch.zeros(size, size, dtype=torch.float64), 0
    for chunk in chunks:
        values = to_signed(chunk).double() - colour[:, None, None]
        patches = pixel_unshuffle(values, patch_px).permute(0, 2, 3, 1).reshape(-1, size)
        scatter += patches.T @ patches
        count += len(patches)
    places = torch.arange(size).view(1, 3, patch_px, patch_px)
    orders = [turn(places, number).flatten() for number in range(TURNS)]
    return colour, torch.stack([scatter[order][:, order] for order in orders]).mean(0) / count
