"""Refuses latents whose spread is not what a noise schedule is made for."""

import math

import torch
from torch import Tensor

from factory.errors import ModelError

LOW, HIGH = 0.7, 1.3


def check_latent_scale(scaled: Tensor, *, low: float = LOW, high: float = HIGH) -> float:
    """Return the standard deviation of all `scaled` latents (N, ...) of the training images.

    A schedule adds noise of unit variance. Latents several times wider are never covered by it:
    the last timestep still shows the image, and sampling starts where training never was.

    Raises:
        ModelError: the deviation lies outside [low, high], or is no number.
    """
    std = _std(scaled)
    if not low <= std <= high:
        factor = f"to its present value x {1 / std:.6g}" if std and math.isfinite(std) else "anew"
        raise ModelError(
            f"scaled latents have standard deviation {std:.3g}, outside [{low}, {high}]",
            remedy=f"Set the autoencoder's scaling_factor {factor}"
            " (measure_scaling_factor computes it) and cache the latents again",
        )
    return std


def _std(values: Tensor, *, rows: int = 1024) -> float:
    """Return the standard deviation, summed in float64 a few rows at a time."""
    total = squares = torch.zeros((), dtype=torch.float64)
    for chunk in torch.split(values, rows):
        total = total + chunk.double().sum()
        squares = squares + chunk.double().square().sum()
    mean = total / values.numel()
    return float((squares / values.numel() - mean.square()).clamp(min=0).sqrt())
