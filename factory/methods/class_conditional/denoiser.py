"""A denoiser from scratch over latents, told a class: the module, its loss on a part of a step.

Nothing here knows of Ray or of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from factory.device import up
from factory.finetune.alignment import Alignment, aligned_losses, build_alignment
from factory.finetune.data import Material, spread
from factory.finetune.latents import TURNS, part_turns, to_signed, turned
from factory.finetune.losses import (
    VALIDATION_SEED,
    add_noise,
    denoising_loss,
    training_scheduler,
)
from factory.finetune.order import Part, step_generator, step_indices
from factory.finetune.samples import Draw, called_whole, samples_of
from factory.finetune.workers import Workers, inner, place, uses_bfloat16
from factory.methods.class_conditional.config import ClassConditionalConfig
from factory.methods.class_conditional.draw import ClassConditionalMethod
from factory.models.autoencoder import shrinkage
from factory.models.class_conditioning import keep_conditions, labels_of, mask_planes
from factory.models.class_unet import ClassUNet
from factory.models.experts import Expert
from factory.models.shards import whole

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
    autoencoder: AutoencoderKL
    """Frozen; its scaling factor applies, and it encodes where no latents are kept."""
    tokens: Tensor | None
    """(K, L) token ids of every class's text, for conditioning 'text'."""
    alignment: Alignment | None
    config: ClassConditionalConfig
    workers: Workers

    def loss(self, material: Material, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised.

        Turns are drawn per step and image, latents kept or not: both ways show the same pictures.
        """
        training, seed = self.config.training, self.config.seed
        size = training.batch_size
        indices = torch.from_numpy(
            step_indices(part.step, batch_size=size, num_images=len(material), seed=seed)
        )
        turns = part_turns(part, size, of=TURNS if self.config.turns else 1, seed=seed)
        kept = part.take(
            keep_conditions(
                size,
                dropout=training.condition_dropout,
                generator=step_generator(part.step, seed=seed, stream=2),
            )
        )
        return self._losses(material, part.take(indices), turns, kept, part, size, seed)

    @torch.no_grad()
    def validate(self, material: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows = torch.tensor(spread(material.labels, max_images))
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

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights on the CPU; with shards every worker must call it."""
        return {
            name: whole(value).detach().cpu().contiguous().clone()
            for name, value in self.network.state_dict().items()
            if not name.startswith("projection.")
        }

    @torch.no_grad()
    def clean(self, material: Material, rows: Tensor, turns: Tensor) -> Tensor:
        """Return scaled latents (B, C, h, w) float32 of `rows` (B,) under `turns` (B,)."""
        factor = float(self.autoencoder.config.scaling_factor)
        if material.latents is not None:
            return up(material.latents[rows, turns], self.workers.device).float() * factor
        device = next(self.autoencoder.parameters()).device
        images = up(turned(to_signed(material.images[rows]), turns), device)
        with torch.autocast(device.type, enabled=False):
            latents: Tensor = self.autoencoder.encode(images).latent_dist.mode()
        return latents.float() * factor

    def condition(self, material: Material, rows: Tensor, turns: Tensor) -> Tensor:
        """Return what `ClassConditioned` is told: labels (B,), tokens (B, L), or planes."""
        unet = self.network.unet.config
        if unet.mask_values:
            assert material.masks is not None  # noqa: S101 -- for mypy; checked on the way in
            side = material.images.shape[1] // shrinkage(self.autoencoder)
            planes = mask_planes(material.masks[rows], unet.mask_values, side=side)
            return turned(planes, turns)
        labels = labels_of([material.labels[row] for row in rows.tolist()], unet.class_names)
        return labels if self.tokens is None else self.tokens[labels]

    def samples(self, tokenizer: Any) -> Draw | None:
        """Return what draws classes with the present weights; None for a network shown masks.

        Which masks to draw from is nobody's to choose.
        """
        unet, workers = self.network.unet, self.workers
        if unet.config.mask_values:
            return None

        def predict(network: nn.Module, latents: Tensor, timestep: Tensor, *told: Tensor) -> Any:
            timesteps = timestep.to(latents.device).expand(len(latents))
            return SimpleNamespace(sample=network(latents, timesteps, *told))

        pipeline: Any = SimpleNamespace(
            unet=called_whole(inner(self.model), unet, predict),
            vae=self.autoencoder,
            text_encoder=lambda tokens: (tokens,),
            tokenizer=tokenizer,
            scheduler=self.scheduler,
        )
        method = ClassConditionalMethod(pipeline, workers.device)
        return samples_of(method, self.config, workers, size_px=self.config.size_px)

    def _losses(
        self,
        material: Material,
        rows: Tensor,
        turns: Tensor,
        present: Tensor,
        part: Part,
        batch_size: int,
        seed: int,
    ) -> dict[str, Tensor]:
        device = self.workers.device
        clean = self.clean(material, rows, turns)
        noised = add_noise(self.scheduler, clean, part, batch_size=batch_size, seed=seed)
        condition = up(self.condition(material, rows, turns), device)
        present, known = up(present, device), material.features
        gamma = self.config.training.snr_gamma
        return aligned_losses(
            self.alignment,
            self.network.unet,
            noised,
            predict=lambda: self.model(noised.noisy, noised.timesteps, condition, present),
            loss_of=lambda prediction: denoising_loss(
                self.scheduler, noised, prediction, snr_gamma=gamma
            ),
            features=None if known is None else known[rows, turns],
        )


def class_training(
    network: ClassConditioned,
    config: ClassConditionalConfig,
    autoencoder: AutoencoderKL,
    *,
    tokens: Tensor | None = None,
    expert: Expert | None = None,
    workers: Workers | None = None,
) -> ClassTraining:
    """Return `network` made ready for training, on the worker's device.

    Raises:
        ConfigError: an alignment layer that the network has not.
    """
    workers = workers or Workers()
    scheduler, factor = training_scheduler(config.noise), float(autoencoder.config.scaling_factor)
    autoencoder = autoencoder.requires_grad_(False).to(workers.device)
    alignment = build_alignment(
        config.alignment,
        network.unet,
        expert,
        scheduler,
        seed=config.seed,
        decode=lambda latents: autoencoder.decode(latents / factor).sample,
        joins=network,
    )
    return ClassTraining(
        model=place(network, workers),
        network=network,
        scheduler=scheduler,
        autoencoder=autoencoder,
        tokens=tokens,
        alignment=alignment,
        config=config,
        workers=workers,
    )
