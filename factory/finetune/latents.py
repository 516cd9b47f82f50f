"""Latents of the training images under all flips and quarter turns: computed once, or as asked."""

from collections.abc import Callable

import torch
from torch import Tensor

from factory.finetune.order import Part, step_generator
from factory.finetune.workers import autocast
from factory.models.autoencoder import Autoencoder
from factory.models.patch_autoencoder import PatchAutoencoder

TURNS = 8
Latents = Callable[[Tensor, Part], Tensor]
"""Indices (B,) of a step's images to scaled latents (b, C, h, w) float32 of a part of them, each
image turned at random."""


def exactly(device: str = "cpu") -> torch.autocast:
    """Return the context of float32: bfloat16's 8 bits are too few for an image's own values."""
    return torch.autocast(device.partition(":")[0], enabled=False)


def turn(images: Tensor, number: int) -> Tensor:
    """Return (B, C, S, S) images under dihedral symmetry `number` in 0..7.

    Cells have no up or down, so all eight are equally true.
    """
    turned = torch.rot90(images, number % 4, (2, 3))
    return turned.flip(3) if number >= 4 else turned


def to_signed(images_uint8: Tensor) -> Tensor:
    """Return (B, 3, H, W) floats in [-1, 1] from (B, H, W, 3) uint8."""
    return images_uint8.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_turned(
    autoencoder: Autoencoder,
    images_uint8: Tensor,
    *,
    turns: int = TURNS,
    device: str = "cpu",
    batch_size: int = 64,
) -> Tensor:
    """Return unscaled latents (N, turns, C, h, w) in float16: mean of the posterior, on the CPU.

    Args:
        autoencoder: on `device`.
        images_uint8: (N, S, S, 3).
        turns: under the first so many symmetries, see `turn`.
        device: to encode on.
        batch_size: images at a time.
    """
    exact, chunks = isinstance(autoencoder, PatchAutoencoder), []
    for chunk in torch.split(images_uint8, batch_size):
        images = to_signed(chunk).to(device)
        with exactly(device) if exact else autocast("bfloat16", device):
            turned = [
                autoencoder.encode(turn(images, n)).latent_dist.mode().half().cpu()
                for n in range(turns)
            ]
        chunks.append(torch.stack(turned, dim=1))
    return torch.cat(chunks)


def cached_latents(scaled: Tensor, *, seed: int) -> Latents:
    """Return latents of steps out of `scaled` (N, 8, C, h, w)."""
    return lambda indices, part: pick_turns(scaled, indices, part, seed=seed)


def encoded_latents(autoencoder: Autoencoder, images_uint8: Tensor, *, seed: int) -> Latents:
    """Return latents of steps, encoded in the step from `images_uint8` (N, S, S, 3), in float32."""

    def encoded(indices: Tensor, part: Part) -> Tensor:
        turns = part_turns(part, len(indices), seed=seed)
        images = to_signed(images_uint8[part.take(indices)])
        for number in set(turns.tolist()):
            images[turns == number] = turn(images[turns == number], number)
        return scaled_latents(autoencoder, images)

    return encoded


@torch.no_grad()
def scaled_latents(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Return what a denoiser sees of images (B, 3, S, S) in [-1, 1]: (B, C, h, w), float32.

    Computed where the autoencoder lies.
    """
    device = next(autoencoder.parameters()).device
    with exactly(device.type):
        latents: Tensor = autoencoder.encode(images.to(device)).latent_dist.mode().float()
    scaled: Tensor = latents * autoencoder.config.scaling_factor
    return scaled


def pick_turns(latents: Tensor, indices: Tensor, part: Part, *, seed: int) -> Tensor:
    """Return (b, C, h, w) float32 latents of this part of `indices` (B,), randomly turned."""
    turns = part_turns(part, len(indices), of=latents.shape[1], seed=seed)
    return latents[part.take(indices), turns].float()


def part_turns(part: Part, batch_size: int, *, of: int = TURNS, seed: int) -> Tensor:
    """Return which of the first `of` turns each image of this part of a batch is shown under."""
    generator = step_generator(part.step, seed=seed, stream=1)
    return part.take(torch.randint(0, of, (batch_size,), generator=generator))


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Return (B, C, S, S) images, each under its own of `turns` (B,)."""
    rows = zip(torch.split(images, 1), turns.tolist(), strict=True)
    return torch.cat([turn(image, number) for image, number in rows])
