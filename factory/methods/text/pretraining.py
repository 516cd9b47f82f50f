"""A base from scratch in training: its networks and its loss on a part of a step.

Nothing here knows of Ray or of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from factory.device import up
from factory.errors import ConfigError
from factory.finetune.alignment import (
    Alignment,
    aligned_losses,
    build_alignment,
    expert_of,
)
from factory.finetune.data import Material, spread
from factory.finetune.latents import (
    Latents,
    cached_latents,
    encoded_latents,
    part_turns,
    scaled_latents,
    to_signed,
)
from factory.finetune.losses import (
    VALIDATION_SEED,
    add_noise,
    denoising_loss,
    training_scheduler,
)
from factory.finetune.order import Part, step_indices, step_random
from factory.finetune.workers import Workers, place, uses_bfloat16
from factory.methods.text.adapt import TextConditioned
from factory.methods.text.config import BaseConfig
from factory.models.autoencoder import Autoencoder, shrinkage
from factory.models.conditioning import prompt_tokenizer, small_text_encoder, tokenize
from factory.models.generator import find_generator
from factory.models.pipeline import load_pipeline
from factory.models.prompts import vary_prompt
from factory.models.shards import whole
from factory.models.unets import small_unet

LOOKED_AT, ALIKE = 8, 0.5
"""Images by which two autoencoders are compared, and how far apart their latents may lie, in
standard deviations: rounded weights do less, components of another sign 1 and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """A base in training: `model` is what the loop steps, `network` the same without a wrapper."""

    model: nn.Module
    network: TextConditioned
    scheduler: DDPMScheduler
    tokenizer: Any
    autoencoder: Any
    """Frozen; only samples and an aligned loss use it."""
    latents: Latents
    alignment: Alignment | None
    config: BaseConfig
    workers: Workers

    def loss(self, learn: Material, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised."""
        config, stage = self.config, self.config.denoiser
        size, seed = stage.batch_size, config.seed
        indices = step_indices(part.step, batch_size=size, num_images=len(learn), seed=seed)
        prompts = [
            vary_prompt(
                config.prompt,
                learn.labels[indices[place]],
                learn.attributes[indices[place]],
                step_random(part.step, seed=seed, place=place),
                condition_dropout=stage.condition_dropout,
                attribute_dropout=stage.attribute_dropout,
            )
            for place in part.take(range(size))
        ]
        clean = self.latents(torch.from_numpy(indices), part)
        features = None
        if learn.features is not None:
            turns = part_turns(part, size, of=learn.features.shape[1], seed=seed)
            features = learn.features[part.take(indices), turns]
        return self._losses(clean, prompts, features, part, size, seed)

    @torch.no_grad()
    def validate(self, held_out: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `held_out`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows = spread(held_out.labels, max_images)
        prompts = [
            self.config.prompt.compose(held_out.labels[row], held_out.attributes[row])
            for row in rows
        ]
        if held_out.latents is None:
            images = to_signed(held_out.images[rows]).to(self.workers.device)
            clean = scaled_latents(self.autoencoder, images)
        else:
            factor = self.autoencoder.config.scaling_factor
            clean = held_out.latents[rows, 0].float() * factor
        known = held_out.features
        features = None if known is None else known[rows, 0]
        losses = self._losses(clean, prompts, features, Part(step=0), len(rows), VALIDATION_SEED)
        return {f"val_{name}": float(value) for name, value in losses.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights on the CPU; with shards every worker must call it."""
        return {
            name: whole(value).detach().cpu().contiguous().clone()
            for name, value in self.network.state_dict().items()
            if name.startswith(("unet.", "text_encoder."))
        }

    def _losses(
        self,
        clean: Tensor,
        prompts: Sequence[str],
        features: Tensor | None,
        part: Part,
        batch_size: int,
        seed: int,
    ) -> dict[str, Tensor]:
        device, stage = self.workers.device, self.config.denoiser
        tokens = up(tokenize(self.tokenizer, prompts), device)
        noised = add_noise(
            self.scheduler,
            up(clean, device),
            part,
            batch_size=batch_size,
            seed=seed,
            levels=stage.noise_levels,
        )
        return aligned_losses(
            self.alignment,
            self.network.unet,
            noised,
            predict=lambda: self.model(noised.noisy, noised.timesteps, tokens),
            loss_of=lambda prediction: denoising_loss(
                self.scheduler, noised, prediction, snr_gamma=stage.snr_gamma
            ),
            features=features,
        )


def pretraining(
    learn: Material, config: BaseConfig, autoencoder: Autoencoder, workers: Workers | None = None
) -> Pretraining:
    """Return the untrained (or the base's) networks ready for training on `learn`.

    Raises:
        ConfigError: see `build_denoiser`; an alignment layer that the U-Net has not.
        ModelError: a base or an expert that cannot be loaded.
    """
    workers = workers or Workers()
    network, tokenizer = build_denoiser(learn, config, autoencoder)
    scheduler, factor = training_scheduler(config.noise), autoencoder.config.scaling_factor
    vae: Any = autoencoder.requires_grad_(False).to(workers.device)
    if learn.latents is None:
        latents = encoded_latents(vae, learn.images, seed=config.seed)
    else:
        latents = cached_latents(learn.latents * factor, seed=config.seed)
    alignment = build_alignment(
        config.alignment,
        network.unet,
        expert_of(config),
        scheduler,
        seed=config.seed,
        decode=lambda given: vae.decode(given / factor).sample,
        joins=network,
    )
    return Pretraining(
        model=place(network, workers),
        network=network,
        scheduler=scheduler,
        tokenizer=tokenizer,
        autoencoder=vae,
        latents=latents,
        alignment=alignment,
        config=config,
        workers=workers,
    )


def build_denoiser(
    learn: Material, config: BaseConfig, autoencoder: Autoencoder
) -> tuple[TextConditioned, CLIPTokenizer]:
    """Return the untrained (or the base's) network and the tokenizer of its prompts' words.

    It draws the latents of `autoencoder`: as many channels, at the size that its levels leave.

    Raises:
        ConfigError: a base with other words, other widths, or of another autoencoder's latents.
        ModelError: the base cannot be found or loaded.
    """
    values = {
        name: sorted({v for row in learn.attributes if (v := row.get(name)) is not None})
        for name in config.prompt.attributes
    }
    tokenizer = prompt_tokenizer(config.prompt.vocabulary(learn.class_names, values))
    torch.manual_seed(config.seed + 1)  # noqa: TID251 -- initial weights have no generator argument
    text_encoder = small_text_encoder(tokenizer)
    unet = small_unet(
        sample_size_latent=config.size_px // shrinkage(autoencoder),
        channels=config.denoiser.channels,
        in_channels=autoencoder.config.latent_channels,
        resnet_time_scale_shift=config.denoiser.resnet_time_scale_shift,
        cross_attention_dim=text_encoder.config.hidden_size,
    )
    if not torch.cuda.is_available() and uses_bfloat16("bfloat16", "cpu"):
        # In bfloat16 on a CPU plain matrix products train 1.2 times faster than the fused kernel.
        unet.set_attn_processor(AttnProcessor())
    model = TextConditioned(unet, text_encoder)
    if config.denoiser.base is not None:
        shown = to_signed(learn.images[:LOOKED_AT])
        _start_from(config.denoiser.base, model, tokenizer, autoencoder, shown)
    return model, tokenizer


def _start_from(
    base: str,
    model: TextConditioned,
    tokenizer: CLIPTokenizer,
    autoencoder: Autoencoder,
    images: Tensor,
) -> None:
    """Give `model` the weights of the generator `base`, which must speak of the same things."""
    pipeline = load_pipeline(find_generator(base))
    if pipeline.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"denoiser.base {base!r} knows other words than these prompts and images have",
            remedy="Give the prompts and attributes that it was trained with, or leave base out",
        )
    for name in ("unet", "text_encoder"):
        try:
            getattr(model, name).load_state_dict(getattr(pipeline, name).state_dict())
        except RuntimeError as error:
            raise ConfigError(
                f"the {name} of denoiser.base {base!r} is another network"
                f" ({str(error).splitlines()[-1].strip()})",
                remedy="Give its widths as denoiser.channels, or leave base out",
            ) from error
    ours, theirs = (scaled_latents(each, images) for each in (autoencoder, pipeline.vae))
    if ours.shape != theirs.shape or float((ours - theirs).std() / theirs.std()) > ALIKE:
        raise ConfigError(
            f"denoiser.base {base!r} draws the latents of another autoencoder",
            remedy=f"Take it as well: autoencoder: {{base: {base}, steps: 0, trains: decoder}}",
        )
