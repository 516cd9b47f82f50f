"""An autoencoder without a network: an image folds into patches, each into a few components.

Every patch of `patch_px` pixels becomes one latent place, its principal components the channels; a
transposed convolution unfolds them. It is fitted in closed form, encodes thousands of images a
second, and hides nothing: a denoiser of such latents is one of pixels, without their finest noise.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from factory.errors import ConfigError


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Images (B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/p, W/p) and back.

    It has the interface of diffusers' `AutoencoderKL`, as far as pipelines and trainers ask for it;
    its posterior has no variance. H and W are multiples of `patch_px`, a power of 2.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        patch_px: int = 4,
        latent_channels: int = 16,
        scaling_factor: float = 1.0,  # noqa: ARG002 -- pipelines read it in the configuration
        block_out_channels: Sequence[int] | None = None,  # noqa: ARG002
    ) -> None:
        """`block_out_channels` is set here: pipelines count its levels to know the shrinkage.

        Raises:
            ConfigError: a patch whose side is no power of 2, or more channels than it has values.
        """
        super().__init__()
        if patch_px < 2 or patch_px & (patch_px - 1) or not 0 < latent_channels <= 3 * patch_px**2:
            raise ConfigError(
                f"patches of {patch_px} px cannot become {latent_channels} channels",
                remedy="Choose a side of 2, 4, 8, ... and at most 3 x side x side channels",
            )
        levels = [latent_channels] * patch_px.bit_length()
        self.register_to_config(block_out_channels=levels)
        self.encoder = nn.Conv2d(3, latent_channels, patch_px, stride=patch_px)
        self.decoder = nn.ConvTranspose2d(latent_channels, 3, patch_px, stride=patch_px)

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Whether `folder` holds such an autoencoder, by its configuration; other files say no."""
        try:
            stored = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(stored, dict) and stored.get("_class_name") == cls.__name__

    @apply_forward_hook  # type: ignore[untyped-decorator]  # offloaded: fetched first
    def encode(self, images: Tensor, return_dict: bool = True) -> Any:
        """Return an `AutoencoderKLOutput`; its `latent_dist` is the latents themselves."""
        latents = self.encoder(images)
        parameters = torch.cat([latents, torch.zeros_like(latents)], dim=1)
        posterior = DiagonalGaussianDistribution(parameters, deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def decode(
        self, latents: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> Any:
        """Return a `DecoderOutput` with the images; `generator` is for other decoders."""
        del generator
        images = self.decoder(latents)
        return DecoderOutput(sample=images) if return_dict else (images,)
