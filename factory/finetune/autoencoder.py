"""The first stage of a latent generator: an autoencoder, trained, fitted or taken as it is."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from factory.device import up
from factory.errors import ModelError
from factory.finetune.autoencoder_losses import AdversarialTerm, autoencoder_loss, feature_distance
from factory.finetune.config import FirstStageConfig, PatchConfig
from factory.finetune.latents import TURNS, to_signed, turn
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.order import Part, step_generator, step_indices
from factory.finetune.stages import check_seal, new_stage
from factory.finetune.workers import Workers
from factory.models.autoencoder import Autoencoder, measure_scaling_factor, small_autoencoder
from factory.models.generator import find_generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.terminal import quiet_libraries

LOW, HIGH = 0.7, 1.3
"""Standard deviation of scaled latents that a noise schedule is made for."""
SCALE_IMAGES = 512
"""Images by which the spread of the latents is measured."""


class FirstStage(nn.Module):
    """What the first stage trains: the autoencoder and, if asked for, its adversary."""

    def __init__(self, autoencoder: Autoencoder, adversarial: AdversarialTerm | None) -> None:
        super().__init__()
        self.autoencoder, self.adversarial = autoencoder, adversarial


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an autoencoder is trained on.

    Args:
        images: (N, S, S, 3) uint8 of the train part.
        seed: of initial weights, order and noise.
        turns: show images under flips and quarter turns, one for all images of a step.
        depends_on: what else the weights depend on.
        device: to train on.
    """

    images: Tensor
    seed: int
    turns: bool = True
    depends_on: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def train_first_stage(
    config: FirstStageConfig, lesson: Lesson, folder: Path, *, follow: Callable[..., None]
) -> Autoencoder:
    """Return the autoencoder in `folder`, trained if it is not there yet.

    It trains on one worker: it is small beside the denoiser, and its adversary's start and balance
    need all gradients of a step in one place.

    Args:
        config: where it comes from and how it learns.
        lesson: what it learns from.
        folder: of the result; checkpoints lie beside it, in `<folder>-checkpoints`.
        follow: runs the loop.

    Raises:
        ModelError: a result that cannot be read, or a checkpoint of another configuration.
    """
    if (folder / "config.json").exists():
        return load_first_stage(folder)
    stage = build_first_stage(config, size_px=lesson.images.shape[1], seed=lesson.seed)
    if config.steps:
        checkpoints = folder.with_name(f"{folder.name}-checkpoints")
        loop = first_stage_loop(stage.to(lesson.device), config, lesson, checkpoints=checkpoints)
        follow(loop)
        with loop.ema.applied(stage):
            stage = copy.deepcopy(stage)
    autoencoder = stage.autoencoder.eval().cpu()
    if config.scaling_factor or config.trains == "all":
        factor = config.scaling_factor or measure_scaling_factor(autoencoder, _some(lesson))
        autoencoder.register_to_config(scaling_factor=factor)
    with new_stage(folder) as work, quiet_libraries():
        autoencoder.save_pretrained(work)
    return autoencoder


def fit_first_stage(config: PatchConfig, images_uint8: Tensor, folder: Path) -> PatchAutoencoder:
    """Return the autoencoder in `folder`, fitted to images (N, S, S, 3) if it is not there yet.

    Raises:
        ConfigError: more components than a patch has values.
        ModelError: a result that cannot be read.
    """
    if not (folder / "config.json").exists():
        fitted = fit_patch_autoencoder(
            images_uint8,
            latent_channels=config.components,
            patch_px=config.patch_px,
            whitening=config.whitening,
        )
        with new_stage(folder) as work, quiet_libraries():
            fitted.save_pretrained(work)
    loaded: PatchAutoencoder = load_first_stage(folder)
    return loaded


def load_first_stage(folder: Path) -> Autoencoder:
    """Return the autoencoder that a first stage left in `folder`.

    Raises:
        ModelError: missing, damaged, or changed since.
    """
    try:
        kind = PatchAutoencoder if PatchAutoencoder.is_in(folder) else AutoencoderKL
        loaded = kind.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{folder} holds no readable autoencoder ({next(iter(str(error).splitlines()), '')})",
            remedy="Delete it and start again: it is made anew, finished stages are kept",
        ) from error
    check_seal(folder)
    return loaded.eval()


def build_first_stage(config: FirstStageConfig, *, size_px: int, seed: int) -> FirstStage:
    """Return the untrained (or the base's) autoencoder and its adversary.

    Raises:
        ConfigError: channels that cannot be built.
        ModelError: the base cannot be found or loaded.
    """
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    if config.base is not None:
        autoencoder = autoencoder_of(config.base, config.revision)
    else:
        autoencoder = small_autoencoder(
            sample_size_px=size_px,
            latent_channels=config.latent_channels,
            channels=config.channels,
            layers_per_block=config.layers_per_block,
        )
    if config.trains == "decoder":
        for part in ("encoder", "quant_conv"):
            if module := getattr(autoencoder, part, None):  # one of patches has no second
                module.requires_grad_(False)
    adversarial = AdversarialTerm(config.adversarial) if config.adversarial else None
    return FirstStage(autoencoder, adversarial)


def autoencoder_of(name: str, revision: str | None) -> Autoencoder:
    """Return the autoencoder of a generator, or of its base if it is one with LoRAs.

    Raises:
        ModelError: it cannot be found or loaded.
    """
    from factory.models.pipeline import load_pipeline

    generator = find_generator(name, revision=revision)
    base = generator.base() if generator.adapters else generator
    autoencoder: Autoencoder = load_pipeline(base).vae
    return autoencoder


def first_stage_loop(
    stage: FirstStage, config: FirstStageConfig, lesson: Lesson, *, checkpoints: Path | None
) -> Loop:
    """Return the resumable loop that trains `stage` in place; it averages the weights."""
    images, size = lesson.images, config.batch_size
    perceptual = feature_distance(config.perceptual)
    perceptual = perceptual.to(lesson.device) if perceptual else None

    def loss_of(_model: nn.Module, part: Part) -> dict[str, Tensor]:
        indices = step_indices(part.step, batch_size=size, num_images=len(images), seed=lesson.seed)
        shown = to_signed(up(images[torch.from_numpy(indices)], lesson.device))
        return autoencoder_loss(
            stage.autoencoder,
            turn(shown, part.step % TURNS).contiguous() if lesson.turns else shown,
            kl_weight=config.kl_weight,
            perceptual=perceptual,
            perceptual_weight=config.perceptual_weight,
            generator=step_generator(part.step, seed=lesson.seed),
            adversarial=stage.adversarial,
            step=part.step,
        )

    return Loop(
        stage.train(),
        loss_of,
        LoopConfig(
            steps=config.steps,
            batch_size=size,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=config.steps,
            weight_decay=1e-4,
            ema_decay=0.999,
            resumable=dict(lesson.depends_on),
            checkpoint_dir=checkpoints,
        ),
        Workers(device=lesson.device),
    )


def _some(lesson: Lesson) -> Tensor:
    """Return a few hundred images, spread over all, as (n, 3, S, S) in [-1, 1]."""
    generator = step_generator(0, seed=lesson.seed, stream=9)
    order = torch.randperm(len(lesson.images), generator=generator)
    return to_signed(lesson.images[order[:SCALE_IMAGES]])


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
