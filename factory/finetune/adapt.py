"""Adapting a text-conditioned base to new images: LoRA or all weights, aligned or not.

The module that is trained, its loss on a part of a step, and what is exported in the end. Nothing
here knows of Ray or of files.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from factory.finetune.alignment import Alignment, aligned_losses, build_alignment
from factory.finetune.config import FinetuneConfig
from factory.finetune.loop import Loop
from factory.finetune.loop_config import loop_config
from factory.finetune.losses import Noised, add_noise, denoising_loss
from factory.finetune.material import Material, spread
from factory.finetune.order import Part, step_indices, step_random
from factory.finetune.pretrain import TextConditioned
from factory.finetune.workers import Workers, inner, place, uses_bfloat16
from factory.models.conditioning import check_text_parts, tokenize
from factory.models.experts import Expert
from factory.models.lora import attach_lora, lora_tensors
from factory.models.shards import whole
from factory.models.windowed import set_attention_window

VALIDATION_SEED = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """A base in training: `model` is what the loop steps, `network` the same without a wrapper."""

    model: nn.Module
    network: TextConditioned
    scheduler: DDPMScheduler
    tokens: dict[str, Tensor]
    """Token ids (1, length) of every prompt, '' among them."""
    tokenizer: Any
    autoencoder: Any
    """Frozen; only samples and an aligned loss use it."""
    alignment: Alignment | None
    config: FinetuneConfig
    workers: Workers

    def loss(self, material: Material, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised."""
        training, seed = self.config.training, self.config.seed
        indices = step_indices(
            part.step, batch_size=training.batch_size, num_images=len(material.ids), seed=seed
        )
        places = part.take(range(training.batch_size))
        rngs = [step_random(part.step, seed=seed, place=place) for place in places]
        mine = [int(indices[place]) for place in places]
        turns = [rng.randrange(material.latents.shape[1]) for rng in rngs]
        prompts = [
            "" if rng.random() < training.condition_dropout else self._prompt(material.labels[i])
            for rng, i in zip(rngs, mine, strict=True)
        ]
        noised = self._noised(material.latents[mine, turns], part, training.batch_size, seed)
        known = material.features
        return self._losses(noised, prompts, None if known is None else known[mine, turns])

    @torch.no_grad()
    def validate(self, material: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows = spread(material.labels, max_images)
        latents, part = material.latents[rows, 0], Part(step=0)
        noised = self._noised(latents, part, len(rows), VALIDATION_SEED)
        prompts = [self._prompt(material.labels[row]) for row in rows]
        known = material.features
        losses = self._losses(noised, prompts, None if known is None else known[rows, 0])
        return {f"val_{name}": float(value) for name, value in losses.items()}

    def _prompt(self, class_name: str) -> str:
        return self.config.prompt_of(class_name)

    def _noised(self, latents: Tensor, part: Part, batch_size: int, seed: int) -> Noised:
        factor = self.autoencoder.config.scaling_factor
        clean = latents.float().to(self.workers.device) * factor
        return add_noise(self.scheduler, clean, part, batch_size=batch_size, seed=seed)

    def _losses(
        self, noised: Noised, prompts: list[str], features: Tensor | None
    ) -> dict[str, Tensor]:
        tokens = torch.cat([self.tokens[prompt] for prompt in prompts]).to(self.workers.device)
        return aligned_losses(
            self.alignment,
            self.network.unet,
            noised,
            predict=lambda: self.model(noised.noisy, noised.timesteps, tokens),
            loss_of=lambda prediction: denoising_loss(
                self.scheduler, noised, prediction, snr_gamma=self.config.training.snr_gamma
            ),
            features=features,
        )


def adapt(
    pipeline: Any,
    config: FinetuneConfig,
    class_names: tuple[str, ...],
    *,
    expert: Expert | None = None,
    workers: Workers | None = None,
) -> Adaptation:
    """Return the base in `pipeline` made ready for training, on the worker's device.

    Args:
        pipeline: a `StableDiffusionPipeline` in float32; its networks are changed in place.
        config: how it is trained.
        class_names: whose prompts will be asked for.
        expert: for the alignment; None where its weight is 0.
        workers: this worker among its peers.

    Raises:
        ConfigError: LoRA targets or alignment layers that the base has not; a tokenizer that does
            not belong to the text encoder.
    """
    workers = workers or Workers()
    check_text_parts(pipeline)
    network: Any = TextConditioned(pipeline.unet, pipeline.text_encoder)
    if config.attention_window is not None:
        set_attention_window(network.unet, config.attention_window)
    if config.train == "lora":
        attach_lora(network.unet, network.text_encoder, config.lora, seed=config.seed)
    if workers.device == "cpu" and uses_bfloat16(config.training.precision, "cpu"):
        _use_plain_attention(network.unet)
    if config.training.gradient_checkpointing:
        network.unet.enable_gradient_checkpointing()
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    factor = float(pipeline.vae.config.scaling_factor)
    vae = pipeline.vae.requires_grad_(False)
    alignment = build_alignment(
        config.alignment,
        network.unet,
        expert,
        scheduler,
        seed=config.seed,
        decode=lambda latents: vae.to(latents.device).decode(latents / factor).sample,
    )
    if alignment is not None:
        network.projection = alignment.projection  # trained and checkpointed with the rest
    prompts = ["", *(config.prompt_of(name) for name in class_names)]
    return Adaptation(
        model=place(network, workers),
        network=network,
        scheduler=scheduler,
        tokens={prompt: tokenize(pipeline.tokenizer, [prompt]) for prompt in prompts},
        tokenizer=pipeline.tokenizer,
        autoencoder=vae,
        alignment=alignment,
        config=config,
        workers=workers,
    )


def adaptation_loop(
    adaptation: Adaptation, material: Material, *, base_model_id: str, checkpoints: Path | None
) -> Loop:
    """Return the resumable loop that trains `adaptation` on `material`."""
    config = adaptation.config
    return Loop(
        adaptation.model,
        lambda _module, part: adaptation.loss(material, part),
        loop_config(
            config.training,
            config.cluster,
            resumable=resumable(config, material, base_model_id=base_model_id),
            checkpoint_dir=checkpoints,
            best_by=config.validation.best_by,
        ),
        adaptation.workers,
    )


def resumable(config: FinetuneConfig, material: Material, *, base_model_id: str) -> dict[str, Any]:
    """Return all that the weights depend on: what a checkpoint must agree in to be continued."""
    unused = {"cluster", "validation", "name", "autoencoder"}
    return config.model_dump(mode="json", exclude=unused) | {
        "base_model_id": base_model_id,
        "split_digest": material.split_digest,
        "ids_digest": material.ids_digest,
    }


def trained_tensors(adaptation: Adaptation, loop: Loop) -> dict[str, Tensor]:
    """Return what is exported, on the CPU: the LoRA, or all weights of U-Net and text encoder.

    The average, where one is kept. With shards every worker must call it.
    """
    module = inner(adaptation.model)
    kept = loop.ema.applied(module) if adaptation.config.training.ema_decay else nullcontext()
    network = adaptation.network
    with kept:
        if adaptation.config.train == "lora":
            return lora_tensors(network.unet, network.text_encoder)
        return {
            name: whole(value).detach().cpu().clone()
            for name, value in network.state_dict().items()
            if name.startswith(("unet.", "text_encoder."))
        }


def _use_plain_attention(unet: Any) -> None:
    """In bfloat16 on a CPU plain matrix products train 1.2 times faster than the fused kernel."""
    if all(type(each) is AttnProcessor2_0 for each in unet.attn_processors.values()):
        unet.set_attn_processor(AttnProcessor())
