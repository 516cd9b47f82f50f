"""A text-conditioned base in training: the module, its loss on a part of a step, its samples.

Nothing here knows of Ray; what is trained on what stands in `factory.methods.text.train`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from factory.device import up
from factory.errors import ConfigError
from factory.finetune.alignment import Alignment, aligned_losses, build_alignment
from factory.finetune.data import Material, spread
from factory.finetune.losses import VALIDATION_SEED, Noised, add_noise, denoising_loss
from factory.finetune.memory import Sketch
from factory.finetune.order import Part, step_indices, step_random
from factory.finetune.samples import Draw, called_whole, samples_of
from factory.finetune.workers import Workers, inner, place, uses_bfloat16
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.draw import TextMethod
from factory.models.conditioning import check_text_parts, tokenize
from factory.models.experts import Expert
from factory.models.folder import read_json, read_manifest
from factory.models.generator import Generator, find_generator
from factory.models.lora import attach_lora, lora_tensors
from factory.models.prompts import Reader
from factory.models.shards import whole
from factory.models.windowed import set_attention_window


class TextConditioned(nn.Module):
    """U-Net and text encoder: noisy latents, timesteps, tokens to a prediction."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Return the prediction (B, C, h, w) for (B, C, h, w), (B,), (B, MAX_TOKENS)."""
        context = self.text_encoder(tokens)[0]
        prediction: Tensor = self.unet(latents, timesteps, context).sample
        return prediction


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
        mine, turns, prompts = chosen(self.config, material, part)
        assert material.latents is not None  # noqa: S101 -- for mypy: they are encoded before
        noised = self._noised(material.latents[mine, turns], part, training.batch_size, seed)
        known = material.features
        return self._losses(noised, prompts, None if known is None else known[mine, turns])

    @torch.no_grad()
    def validate(self, material: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows = spread(material.labels, max_images)
        assert material.latents is not None  # noqa: S101 -- for mypy: they are encoded before
        latents, part = material.latents[rows, 0], Part(step=0)
        noised = self._noised(latents, part, len(rows), VALIDATION_SEED)
        prompts = [self._prompt(material.labels[row]) for row in rows]
        known = material.features
        losses = self._losses(noised, prompts, None if known is None else known[rows, 0])
        return {f"val_{name}": float(value) for name, value in losses.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return what is exported, on the CPU: the LoRA, or all weights of U-Net and text encoder.

        With shards every worker must call it.
        """
        if self.config.train == "lora":
            return lora_tensors(self.network.unet, self.network.text_encoder)
        return {
            name: whole(value).detach().cpu().contiguous().clone()
            for name, value in self.network.state_dict().items()
            if name.startswith(("unet.", "text_encoder."))
        }

    def _prompt(self, class_name: str) -> str:
        return self.config.prompt_of(class_name)

    def _noised(self, latents: Tensor, part: Part, batch_size: int, seed: int) -> Noised:
        factor = self.autoencoder.config.scaling_factor
        clean = up(latents, self.workers.device).float() * factor
        return add_noise(self.scheduler, clean, part, batch_size=batch_size, seed=seed)

    def _losses(
        self, noised: Noised, prompts: list[str], features: Tensor | None
    ) -> dict[str, Tensor]:
        tokens = up(torch.cat([self.tokens[each] for each in prompts]), self.workers.device)
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


def chosen(
    config: FinetuneConfig, material: Material, part: Part
) -> tuple[list[int], list[int], list[str]]:
    """Return rows, turns and prompts of a part of a step; '' where the condition is dropped."""
    training, seed = config.training, config.seed
    assert material.latents is not None  # noqa: S101 -- for mypy: they are encoded before
    indices = step_indices(
        part.step, batch_size=training.batch_size, num_images=len(material.ids), seed=seed
    )
    places = part.take(range(training.batch_size))
    rngs = [step_random(part.step, seed=seed, place=place) for place in places]
    mine = [int(indices[place]) for place in places]
    turns = [rng.randrange(material.latents.shape[1]) for rng in rngs]
    prompts = [
        "" if rng.random() < training.condition_dropout else config.prompt_of(material.labels[i])
        for rng, i in zip(rngs, mine, strict=True)
    ]
    return mine, turns, prompts


def with_classes_of(base: Generator, config: FinetuneConfig) -> FinetuneConfig:
    """Return `config` with the classes that are drawn without labels: its own, or the base's.

    Raises:
        ConfigError: neither names any.
    """
    classes = config.classes or base.prompts
    if not classes:
        raise ConfigError(
            f"unlabelled: true, and base {base.name!r} says nothing of the classes that it knows",
            remedy="Name what it shall draw, with prompts: --set 'classes={monocyte: a monocyte}'",
        )
    return config.model_copy(update={"classes": dict(classes)})


def drawn_classes(config: FinetuneConfig, learn: Material) -> tuple[str, ...]:
    """Return the classes that the generator will draw: those of the images, unless untold."""
    return tuple(config.classes) if config.unlabelled else learn.class_names


def with_read_prompts(
    config: FinetuneConfig,
    class_names: Sequence[str],
    reader: Reader | None,
    tell: Callable[[str], object],
) -> FinetuneConfig:
    """Return `config` with prompts of which every word is read; `tell` hears what is left out.

    Args:
        config: of the training.
        class_names: whose prompts are asked for.
        reader: of the base; None where nobody knows how it reads.
        tell: gets lines.

    Raises:
        ConfigError: classes that one LoRA, or the whole network, could not tell apart.
    """
    if reader is None:
        return config
    used, tokens = dict[str, str](), dict[tuple[int, ...], str]()
    for name in class_names:
        found = reader.read(config.prompt_of(name))
        if found.cut:
            used[name] = found.read
            tell(
                f"{name}: the base reads {found.most} of {found.tokens} tokens of its prompt:"
                f" {found.cut!r} is cut off, it is trained and drawn as {found.read!r}"
            )
        elif found.unknown:
            tell(f"{name}: the base does not know the letters {found.unknown!r} of its prompt")
        same = tokens.setdefault(found.ids, name)
        if same != name and not config.separate:
            raise ConfigError(
                f"classes {same!r} and {name!r} have prompts that the base reads alike:"
                f" {found.read!r}",
                remedy="Give them prompts that differ (classes: {name: prompt}), or set separate:"
                " true for a LoRA each",
            )
    if not used:
        return config
    return config.model_copy(update={"classes": {**config.classes, **used}})


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
        joins=network,
    )
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


def text_samples(adaptation: Any, size_px: int) -> Draw:
    """Return what draws classes with the present weights; every worker must call it.

    `adaptation`: or a base from scratch in training.
    """
    workers, unet = adaptation.workers, adaptation.network.unet

    def predict(network: nn.Module, latents: Tensor, timestep: Tensor, tokens: Tensor) -> Any:
        return SimpleNamespace(sample=network(latents, timestep, tokens))

    pipeline: Any = SimpleNamespace(
        unet=called_whole(inner(adaptation.model), unet, predict),
        vae=adaptation.autoencoder.to(workers.device),
        text_encoder=lambda tokens: (tokens,),
        tokenizer=adaptation.tokenizer,
        scheduler=adaptation.scheduler,
    )
    method = TextMethod(pipeline, workers.device)
    return samples_of(method, adaptation.config, workers, size_px=size_px)


def text_sketch(config: Any, base: Generator, learn: Material | None) -> Sketch:
    """Return the adaptation of `base` on paper: its networks as its files describe them."""
    unet_config = read_json(base.folder / "unet" / "config.json")
    text_config = CLIPTextConfig(**read_json(base.folder / "text_encoder" / "config.json"))
    levels = len(read_json(base.folder / "vae" / "config.json")["block_out_channels"])
    with torch.device("meta"):
        network = TextConditioned(
            UNet2DConditionModel.from_config(unet_config), CLIPTextModel(text_config)
        )
    unet: Any = network.unet
    if config.train == "lora":
        attach_lora(unet, network.text_encoder, config.lora, seed=0)
    if config.training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    size_px = learn.images.shape[1] if learn else config.size_px or base.size_px
    side, channels = size_px // 2 ** (levels - 1), unet.config.in_channels
    length = text_config.max_position_embeddings  # or CLIP's 77

    def forward(count: int) -> Tensor:
        latents = torch.zeros(count, channels, side, side)
        tokens = torch.zeros(count, length, dtype=torch.long)
        prediction: Tensor = network(latents, torch.zeros(count, dtype=torch.long), tokens)
        return prediction

    return Sketch(name=base.name, network=network, forward=forward, size_px=size_px)


def described(config: FinetuneConfig) -> Generator:
    """Return the base; of a folder without weights, what its configurations say.

    Raises:
        ModelError: neither a generator nor a folder with a denoiser's configuration.
    """
    folder = Path(config.base).expanduser()
    denoisers = [folder / part / "config.json" for part in ("unet", "transformer")]
    weights = any(folder.glob("*/*.safetensors")) or any(folder.glob("lora/*/*.safetensors"))
    if weights or not any(path.is_file() for path in denoisers):
        return find_generator(config.base, revision=config.revision)
    return Generator(
        name=config.base, folder=folder, model_id="none", manifest=read_manifest(folder)
    )


def _use_plain_attention(unet: Any) -> None:
    """In bfloat16 on a CPU plain matrix products train 1.2 times faster than the fused kernel."""
    if all(type(each) is AttnProcessor2_0 for each in unet.attn_processors.values()):
        unet.set_attn_processor(AttnProcessor())
