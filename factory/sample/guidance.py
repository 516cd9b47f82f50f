"""Classifier-free guidance, and the drawing that every method of latent diffusion shares."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.device import in_slices, up
from factory.sample.drawn import Drawn
from factory.sample.loop import Predict, denoise
from factory.sample.noise import batch_noise, step_generators
from factory.sample.recipe import Request
from factory.sample.references import Reference
from factory.sample.schedulers import SCHEDULERS, make_scheduler


def sides(guidance_scale: float) -> tuple[bool, ...]:
    """Return which predictions a step asks for: True with the condition, False without it.

    Scales 1 and 0 take one forward and are the conditional and the unconditional path bit for bit.
    """
    if guidance_scale in (0, 1):
        return (guidance_scale == 1,)
    return (False, True)


def guide(predictions: Tensor, guidance_scale: float) -> Tensor:
    """Return the guided prediction (B, ...) from the (S * B, ...) of all `sides`.

    Source: Ho and Salimans 2022, in the parametrisation of diffusers:
    unconditional + guidance_scale * (conditional - unconditional).
    """
    if len(sides(guidance_scale)) == 1:
        return predictions
    without, given = predictions.chunk(2)
    return without + guidance_scale * (given - without)


def guided(forward: Predict, guidance_scale: float) -> Predict:
    """Return `forward` under guidance: asked once for all sides, whose conditions it brings.

    Args:
        forward: latents (S * B, C, h, w), the B images once for each of S `sides`, and a timestep
            for all or (S * B,), to predictions.
        guidance_scale: see `guide`.
    """
    copies = len(sides(guidance_scale))

    def predict(noisy: Tensor, timestep: Any) -> Tensor:
        each = isinstance(timestep, Tensor) and timestep.ndim > 0
        told = timestep.repeat(copies) if each else timestep
        return guide(forward(torch.cat([noisy] * copies), told), guidance_scale)

    return predict


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Return (B, H, W, 3) uint8 from (B, 3, H, W) in [-1, 1], rounded to nearest.

    Rounded where they lie: a quarter of the bytes leaves a GPU.
    """
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class GuidedMethod(ABC):
    """Draws fixed-shape batches of requests that share their settings."""

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a diffusers pipeline on `device`; only its parts are used."""
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.training_config = pipeline.scheduler.config
        self.latents_per_side = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.device = device

    @abstractmethod
    def conditions(self, requests: Sequence[Request], given: Sequence[bool]) -> Sequence[Tensor]:
        """Return what the U-Net gets after latents and timestep, for every side of `requests`.

        Args:
            requests: B of them.
            given: the `sides`; each tensor returned has len(given) * B rows, side after side.
        """

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:  # noqa: ARG002
        """Return images alone: these methods are shown no reference and draw no mask."""
        return Drawn(images=to_uint8(self.draw(requests)))

    @torch.inference_mode()
    def draw(
        self, requests: Sequence[Request], conditions: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1], float32 on the device, one per request.

        `conditions`: of all `sides`, where the requests alone do not tell them.
        """
        recipe = requests[0].recipe
        if conditions is None:
            conditions = self.conditions(requests, sides(recipe.guidance_scale))
        solver = make_scheduler(recipe.scheduler, self.training_config, recipe.num_inference_steps)
        latents = denoise(
            self.bound(conditions, recipe.guidance_scale),
            solver,
            self.noise(requests) * solver.init_noise_sigma,
            generators=(
                step_generators([request.seed for request in requests])
                if SCHEDULERS[recipe.scheduler].noisy
                else None
            ),
        )
        return self.decode(latents)

    def noise(self, requests: Sequence[Request]) -> Tensor:
        """Return the initial noise (B, C, h, w) of requests, each image's from its own seed."""
        recipe = requests[0].recipe
        shape = (
            self.unet.config.in_channels,
            recipe.height_px // self.latents_per_side,
            recipe.width_px // self.latents_per_side,
        )
        return up(batch_noise([request.seed for request in requests], shape), self.device)

    def bound(self, conditions: Sequence[Tensor], guidance_scale: float) -> Predict:
        """Return the network with the conditions of all `sides`, under guidance."""
        return guided(
            lambda latents, timestep: self.predict(latents, timestep, *conditions), guidance_scale
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1], float32."""
        latents: Tensor = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = latents.float() * self.vae.config.scaling_factor
        return scaled

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), about [-1, 1], float32, of scaled latents (B, C, h, w)."""
        unscaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = latents.shape[2] * latents.shape[3] * self.latents_per_side**2
        images = in_slices(lambda part: self.vae.decode(part).sample, unscaled, pixels=pixels)
        return images.float()

    def predict(self, latents: Tensor, timestep: Tensor, *conditions: Tensor) -> Tensor:
        """Return the network's prediction (B, C, h, w), float32, at one timestep or (B,)."""
        prediction: Tensor = self.unet(latents.to(self.unet.dtype), timestep, *conditions).sample
        return prediction.float()
