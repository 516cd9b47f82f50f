"""Latents of the training images under all eight flips and rotations, computed once."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from factory.finetune.order import Part, step_generator
from factory.finetune.workers import autocast

TURNS = 8


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
    autoencoder: AutoencoderKL, images_uint8: Tensor, *, batch_size: int = 64
) -> Tensor:
    """Return unscaled latents (N, 8, C, h, w) in float16: mean of the posterior, every turn."""
    chunks = []
    for chunk in torch.split(images_uint8, batch_size):
        images = to_signed(chunk)
        with autocast("bfloat16", "cpu"):
            turned = [
                autoencoder.encode(turn(images, n)).latent_dist.mode().half() for n in range(TURNS)
            ]
        chunks.append(torch.stack(turned, dim=1))
    return torch.cat(chunks)


def pick_turns(latents: Tensor, indices: Tensor, part: Part, *, seed: int) -> Tensor:
    """Return (b, C, h, w) float32 latents of this part of `indices` (B,), randomly turned."""
    turns = part_turns(part, len(indices), of=latents.shape[1], seed=seed)
    return latents[part.take(indices), turns].float()


def part_turns(part: Part, batch_size: int, *, of: int = TURNS, seed: int) -> Tensor:
    """Return which of the first `of` turns each image of this part of a batch is shown under."""
    generator = step_generator(part.step, seed=seed, stream=1)
    return part.take(torch.randint(0, of, (batch_size,), generator=generator))
