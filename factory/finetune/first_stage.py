"""The first stage of a latent generator: an autoencoder, trained here or taken from elsewhere."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from factory.errors import ModelError
from factory.finetune.adversarial import AdversarialTerm
from factory.finetune.base_config import PatchConfig
from factory.finetune.class_config import FirstStageConfig
from factory.finetune.latents import TURNS, to_signed, turn
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.losses import FeatureDistance, autoencoder_loss
from factory.finetune.order import Part, step_generator, step_indices
from factory.finetune.patches import fit_patch_autoencoder
from factory.finetune.stages import check_seal, new_stage
from factory.models.autoencoder import Autoencoder, measure_scaling_factor, small_autoencoder
from factory.models.generator import find_generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.terminal import quiet_libraries

Follow = Callable[..., None]
"""Runs a loop to its end: `follow_here` or `follow`, with where to report bound to it."""
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
        perceptual: see `feature_distance`; None leaves the term out.
        depends_on: what else the weights depend on.
        device: to train on.
    """

    images: Tensor
    seed: int
    turns: bool = True
    perceptual: FeatureDistance | None = None
    depends_on: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def train_first_stage(
    config: FirstStageConfig, lesson: Lesson, folder: Path, *, follow: Follow
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

    def loss_of(_model: nn.Module, part: Part) -> dict[str, Tensor]:
        indices = step_indices(part.step, batch_size=size, num_images=len(images), seed=lesson.seed)
        shown = to_signed(images[torch.from_numpy(indices)]).to(lesson.device)
        return autoencoder_loss(
            stage.autoencoder,
            turn(shown, part.step % TURNS).contiguous() if lesson.turns else shown,
            kl_weight=config.kl_weight,
            perceptual=lesson.perceptual,
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
    )


def _some(lesson: Lesson) -> Tensor:
    """Return a few hundred images, spread over all, as (n, 3, S, S) in [-1, 1]."""
    generator = step_generator(0, seed=lesson.seed, stream=9)
    order = torch.randperm(len(lesson.images), generator=generator)
    return to_signed(lesson.images[order[:SCALE_IMAGES]])
