"""The second stage of a class-conditional generator: a denoiser from scratch, over latents.

The module that is trained, its loss on a part of a step, its loss on held-out images. Nothing
here knows of Ray or of files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from factory.finetune.class_config import ClassConditionalConfig, NoiseConfig
from factory.finetune.class_material import ClassMaterial
from factory.finetune.latents import part_turns
from factory.finetune.loop import Loop
from factory.finetune.loop_config import loop_config
from factory.finetune.losses import add_noise, denoising_loss
from factory.finetune.order import Part, step_generator, step_indices
from factory.finetune.workers import Workers, place, uses_bfloat16
from factory.models.class_conditioning import keep_conditions
from factory.models.class_unet import ClassUNet

VALIDATION_SEED = 1_000_003
VALIDATION_ROUNDS = 4
"""Noise and timesteps that every held-out image is shown with: one draw says little."""


class ClassConditioned(nn.Module):
    """U-Net and, where the condition is a text, its encoder: what the second stage trains."""

    def __init__(self, unet: ClassUNet, text_encoder: CLIPTextModel | None = None) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, latents: Tensor, timesteps: Tensor, condition: Tensor, present: Tensor
    ) -> Tensor:
        """Return the prediction (B, C, h, w).

        Args:
            latents: noisy, (B, C, h, w).
            timesteps: (B,).
            condition: labels (B,), token ids (B, L), or planes (B, V, h, w).
            present: (B,) bool, False where the null condition is meant.
        """
        if self.text_encoder is not None:
            condition = self.text_encoder(condition)[0]
        prediction: Tensor = self.unet(latents, timesteps, condition, present).sample
        return prediction


def noise_scheduler(config: NoiseConfig) -> DDPMScheduler:
    """Return the schedule that training and sampling share.

    Scaled-linear as BlastDiffusion's. Samples are latents: they know no [-1, 1] to be clipped to.
    """
    return DDPMScheduler(
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def build_network(
    config: ClassConditionalConfig,
    class_names: Sequence[str],
    *,
    latent_channels: int,
    text_encoder: CLIPTextModel | None = None,
    mask_values: Sequence[int] = (),
) -> ClassConditioned:
    """Return the untrained network, the same in every process.

    Raises:
        ConfigError: widths that do not fit each other, see `ClassUNet`.
    """
    torch.manual_seed(config.seed + 1)  # noqa: TID251 -- initial weights have no generator argument
    settings: dict[str, Any] = config.unet.model_dump()
    if text_encoder is not None:
        settings["context_dim"] = text_encoder.config.hidden_size
    unet = ClassUNet(
        in_channels=latent_channels,
        out_channels=latent_channels,
        class_names=list(class_names),
        mask_values=list(mask_values),
        **settings,
    )
    if config.training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if not torch.cuda.is_available() and uses_bfloat16("bfloat16", "cpu"):
        # In bfloat16 on a CPU plain matrix products train 1.2 times faster than the fused kernel.
        unet.set_attn_processor(AttnProcessor())
    return ClassConditioned(unet, text_encoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTraining:
    """A denoiser in training: `model` is what the loop steps, `network` the same unwrapped."""

    model: nn.Module
    network: ClassConditioned
    scheduler: DDPMScheduler
    config: ClassConditionalConfig
    workers: Workers

    def loss(self, material: ClassMaterial, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised."""
        training, seed = self.config.training, self.config.seed
        size = training.batch_size
        indices = torch.from_numpy(
            step_indices(part.step, batch_size=size, num_images=len(material), seed=seed)
        )
        turns = part_turns(part, size, of=material.num_turns, seed=seed)
        kept = part.take(
            keep_conditions(
                size,
                dropout=training.condition_dropout,
                generator=step_generator(part.step, seed=seed, stream=2),
            )
        )
        return self._losses(material, part.take(indices), turns, kept, part, size, seed)

    @torch.no_grad()
    def validate(self, material: ClassMaterial, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows = material.spread(max_images)
        unturned, present = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        found = [
            self._losses(
                material, rows, unturned, present, Part(step=step), len(rows), VALIDATION_SEED
            )
            for step in range(VALIDATION_ROUNDS)
        ]
        return {
            f"val_{name}": float(torch.stack([losses[name] for losses in found]).mean())
            for name in found[0]
        }

    def _losses(
        self,
        material: ClassMaterial,
        rows: Tensor,
        turns: Tensor,
        present: Tensor,
        part: Part,
        batch_size: int,
        seed: int,
    ) -> dict[str, Tensor]:
        device = self.workers.device
        clean = material.clean(rows, turns).to(device)
        noised = add_noise(self.scheduler, clean, part, batch_size=batch_size, seed=seed)
        condition = material.condition(rows, turns).to(device)
        prediction = self.model(noised.noisy, noised.timesteps, condition, present.to(device))
        gamma = self.config.training.snr_gamma
        return {"loss": denoising_loss(self.scheduler, noised, prediction, snr_gamma=gamma)}


def class_training(
    network: ClassConditioned, config: ClassConditionalConfig, workers: Workers | None = None
) -> ClassTraining:
    """Return `network` made ready for training, on the worker's device."""
    workers = workers or Workers()
    return ClassTraining(
        model=place(network, workers),
        network=network,
        scheduler=noise_scheduler(config.noise),
        config=config,
        workers=workers,
    )


def class_loop(
    training: ClassTraining,
    material: ClassMaterial,
    *,
    depends_on: Mapping[str, Any],
    checkpoints: Path | None,
) -> Loop:
    """Return the resumable loop that trains on `material`.

    Args:
        training: what is trained.
        material: the train part.
        depends_on: what else the weights depend on; a checkpoint of something else is refused.
        checkpoints: their folder.
    """
    config = training.config
    resumable = config.model_dump(
        mode="json", exclude={"cluster", "validation", "name", "autoencoder"}
    )
    return Loop(
        training.model,
        lambda _module, part: training.loss(material, part),
        loop_config(
            config.training,
            config.cluster,
            resumable=resumable | dict(depends_on),
            checkpoint_dir=checkpoints,
            best_by=config.validation.best_by,
        ),
        training.workers,
    )
