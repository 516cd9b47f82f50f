"""LoRA of the denoiser of SDXL, Stable Diffusion 3 and FLUX.1: a frozen base, cached prompts.

    latents, prompts encoded once -> x_t of a diffusion or a flow -> the family's denoiser -> loss

The text encoders are done when training begins, so that neither memory nor steps know of them.
Stable Diffusion 1.x/2.x, whose text encoder may learn too, is adapted in
`factory.methods.text.adapt`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler, FluxPipeline
from torch import Tensor, nn

from factory.errors import ConfigError
from factory.finetune.data import Material, spread
from factory.finetune.losses import (
    VALIDATION_SEED,
    Noised,
    add_flow_noise,
    add_noise,
    denoising_loss,
    flow_loss,
)
from factory.finetune.memory import Sketch
from factory.finetune.order import Part
from factory.finetune.samples import Draw, samples_of
from factory.finetune.workers import Workers, place
from factory.methods.text.adapt import chosen
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.pipeline import (
    Embedded,
    PipelineMethod,
    embedded,
    packed_latents,
    stacked,
    unpacked_latents,
)
from factory.models.autoencoder import scaled
from factory.models.families import Family, learnt_flow, shrinkage_of
from factory.models.folder import read_json
from factory.models.generator import Generator
from factory.models.lora import add_lora, part_tensors
from factory.models.pipeline import DTYPES
from factory.sample.schedulers import OWN
from factory.terminal import quiet_libraries

Conditions = Mapping[tuple[str, str], tuple[Embedded, Embedded]]
"""(prompt, '') to what it amounts to and what no prompt amounts to, as `embedded` returns it."""
TRAIN_TIMESTEPS = 1000
"""Of all these families; flows are told s times so many."""
DISTILLED_GUIDANCE = 1.0
"""Scale that a network is told in training, if it asks for one: that of the images themselves,
as kohya-ss/sd-scripts and ostris/ai-toolkit train FLUX.1-dev."""


def check_family(config: FinetuneConfig, base: Generator) -> FinetuneConfig:
    """Return `config` with what the base's family decides; raise what it cannot be trained by.

    Raises:
        ConfigError: naming the setting, and why it does not go with the family.
    """
    family = base.family
    size_px = config.size_px or base.size_px
    reasons = {
        f"{family.name} is drawn, and not trained": not family.targets,
        "train: full would change the whole network; a LoRA is trained": config.train != "lora",
        "alignment is for the residual blocks of a U-Net": config.alignment.weight > 0,
        "its autoencoder is not adapted (autoencoder.steps)": config.autoencoder.steps > 0,
        f"size_px {size_px} is no multiple of {family.multiple_px}": size_px % family.multiple_px,
        "base_dtype bfloat16 beside a LoRA in float32 cannot be sharded (cluster.sharding fsdp)": (
            config.base_dtype != "float32" and config.cluster.sharding == "fsdp"
        ),
        "its text encoders do not learn (lora.train_text_encoder); prompts are encoded once": (
            config.lora.train_text_encoder and "train_text_encoder" in config.lora.model_fields_set
        ),
        "training.snr_gamma weighs the levels of a diffusion, and it learnt a flow": (
            config.training.snr_gamma is not None and learnt_flow(base.folder)
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(
                f"base {config.base!r} is a {family.name} model: {reason}",
                remedy="Change that setting, or use a Stable Diffusion 1.x/2.x base",
            )
    own: dict[str, Any] = {"train_text_encoder": False}
    if "unet_targets" not in config.lora.model_fields_set:
        own["unet_targets"] = family.targets
    return config.model_copy(
        update={"size_px": size_px, "lora": config.lora.model_copy(update=own)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyAdaptation:
    """A base in training; `model` is what the loop steps, `network` the same without a wrapper."""

    model: nn.Module
    network: nn.Module
    pipeline: Any
    """Without its text encoders; only samples use it."""
    family: Family
    flow: bool
    scheduler: Any
    """Of the training of a diffusion; of a flow its configuration says the shift."""
    conditions: Conditions
    size_px: int
    config: FinetuneConfig
    workers: Workers

    def loss(self, material: Material, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised."""
        mine, turns, prompts = chosen(self.config, material, part)
        assert material.latents is not None  # noqa: S101 -- for mypy: they are encoded before
        batch_size = self.config.training.batch_size
        return self._losses(
            material.latents[mine, turns], prompts, part, batch_size, self.config.seed
        )

    @torch.no_grad()
    def validate(self, material: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise."""
        rows = spread(material.labels, max_images)
        assert material.latents is not None  # noqa: S101 -- for mypy: they are encoded before
        prompts = [self.config.prompt_of(material.labels[row]) for row in rows]
        latents, part = material.latents[rows, 0], Part(step=0)
        losses = self._losses(latents, prompts, part, len(rows), VALIDATION_SEED)
        return {f"val_{name}": float(value) for name, value in losses.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the LoRA, on the CPU. With shards every worker must call it."""
        return part_tensors(self.family.denoiser, self.network)

    def _losses(
        self, latents: Tensor, prompts: list[str], part: Part, batch_size: int, seed: int
    ) -> dict[str, Tensor]:
        clean = scaled(self.pipeline.vae, latents.float().to(self.workers.device))
        told: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        if not self.flow:
            noised = add_noise(self.scheduler, clean, part, **told)
            gamma = self.config.training.snr_gamma
            prediction = self._predict(noised, prompts)
            return {"loss": denoising_loss(self.scheduler, noised, prediction, snr_gamma=gamma)}
        noised = add_flow_noise(clean, part, **told, shift=shift_of(self.scheduler))
        return {"loss": flow_loss(noised, self._predict(noised, prompts))}

    def _predict(self, noised: Noised, prompts: list[str]) -> Tensor:
        rows = [self.conditions[prompt, ""][0 if prompt else 1] for prompt in prompts]
        dtype = DTYPES[self.config.base_dtype]
        given = {n: v.to(self.workers.device, dtype) for n, v in stacked(rows).items()}
        forward = FORWARDS[self.family.name]
        return forward(self.model, noised.noisy.to(dtype), noised.timesteps, given, self.size_px)


def adapt_family(
    pipeline: Any,
    base: Generator,
    config: FinetuneConfig,
    class_names: tuple[str, ...],
    *,
    workers: Workers,
) -> FamilyAdaptation:
    """Return the base in `pipeline` made ready for training, on the worker's device.

    `pipeline` was loaded in `config.base_dtype`.

    Raises:
        ConfigError: LoRA targets that the base has not.
    """
    family, flow = base.family, learnt_flow(base.folder)
    prompts = ["", *(config.prompt_of(name) for name in class_names)]
    conditions = encoded_prompts(pipeline, family, prompts, device=workers.device)
    network = getattr(pipeline, family.denoiser).requires_grad_(False)
    for module in network.modules():  # constants, of which SD 3.5's are a gigabyte: no checkpoint
        module._non_persistent_buffers_set |= set(module._buffers)
    add_lora(network, config.lora.unet_targets, config.lora, seed=config.seed)
    if config.training.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    pipeline.vae.requires_grad_(False)
    schedule = pipeline.scheduler
    return FamilyAdaptation(
        model=place(network, workers),
        network=network,
        pipeline=pipeline,
        family=family,
        flow=flow,
        scheduler=schedule if flow else DDPMScheduler.from_config(schedule.config),
        conditions=conditions,
        size_px=config.size_px or base.size_px,
        config=config,
        workers=workers,
    )


def encoded_prompts(
    pipeline: Any, family: Family, prompts: list[str], *, device: str
) -> Conditions:
    """Return what prompts amount to, on the CPU, and let go of the pipeline's text encoders."""
    names = [name for name in pipeline.components if name.startswith("text_encoder")]
    for name in names:
        if (encoder := getattr(pipeline, name)) is not None:
            encoder.to(device)
    found = {(prompt, ""): embedded(pipeline, family, prompt, "") for prompt in prompts}
    for name in names:
        setattr(pipeline, name, None)
    return _moved(found, "cpu")


def _moved(conditions: Conditions, device: str) -> Conditions:
    return {
        pair: (
            {n: v.to(device) for n, v in given.items()},
            {n: v.to(device) for n, v in without.items()},
        )
        for pair, (given, without) in conditions.items()
    }


def shift_of(scheduler: Any) -> float:
    """Return by how much a flow's levels are moved towards noise, whatever the image's size."""
    config = scheduler.config
    if config.get("use_dynamic_shifting"):
        return 1.0
    return float(config.get("flow_shift") or config.get("shift") or 1.0)


def family_samples(adaptation: FamilyAdaptation) -> Draw:
    """Return what draws classes with the present weights; every worker must call it."""
    pipeline, workers = adaptation.pipeline, adaptation.workers
    pipeline.vae.to(workers.device)
    method = PipelineMethod(pipeline, adaptation.family, workers.device)
    method.keep(_moved(adaptation.conditions, workers.device))
    own = {"scheduler": OWN} if adaptation.flow else {}
    return samples_of(method, adaptation.config, workers, size_px=adaptation.size_px, **own)


def _sdxl(
    network: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], size_px: int
) -> Tensor:
    """SDXL is told the size of the original, where it was cropped, and the size wanted."""
    sizes = [size_px, size_px, 0, 0, size_px, size_px]
    added = {
        "text_embeds": given["pooled_prompt_embeds"],
        "time_ids": torch.tensor([sizes] * len(noisy)).to(noisy),
    }
    told = {"added_cond_kwargs": added, "return_dict": False}
    found: Tensor = network(noisy, timesteps, given["prompt_embeds"], **told)[0]
    return found


def _sd3(
    network: Any, noisy: Tensor, levels: Tensor, given: Mapping[str, Tensor], _size_px: int
) -> Tensor:
    found: Tensor = network(
        hidden_states=noisy,
        timestep=levels * TRAIN_TIMESTEPS,
        encoder_hidden_states=given["prompt_embeds"],
        pooled_projections=given["pooled_prompt_embeds"],
        return_dict=False,
    )[0]
    return found


def _flux(
    network: Any, noisy: Tensor, levels: Tensor, given: Mapping[str, Tensor], _size_px: int
) -> Tensor:
    count, _, height, width = noisy.shape
    context = given["prompt_embeds"]
    asks = inner_config(network).get("guidance_embeds")
    tokens = network(
        hidden_states=packed_latents(noisy),
        timestep=levels.to(noisy),
        guidance=torch.full((count,), DISTILLED_GUIDANCE).to(noisy.device) if asks else None,
        pooled_projections=given["pooled_prompt_embeds"],
        encoder_hidden_states=context,
        txt_ids=torch.zeros(context.shape[1], 3).to(noisy),
        img_ids=FluxPipeline._prepare_latent_image_ids(
            count, height // 2, width // 2, noisy.device, noisy.dtype
        ),
        return_dict=False,
    )[0]
    return unpacked_latents(tokens, height, width)


FORWARDS: Mapping[str, Callable[[Any, Tensor, Tensor, Mapping[str, Tensor], int], Tensor]] = {
    "SDXL": _sdxl,
    "Stable Diffusion 3": _sd3,
    "FLUX.1": _flux,
}
"""Family -> its denoiser's prediction (B, C, h, w) for latents, timesteps (or levels of a flow) and
embeddings (B, ...) of images of a side."""


def inner_config(network: Any) -> Any:
    """Return the configuration of a network, also inside of a DDP wrapper."""
    return getattr(network, "module", network).config


def family_sketch(config: FinetuneConfig, base: Generator, learn: Material | None) -> Sketch:
    """Return the adaptation of `base` on paper: its network as its files describe it."""
    import diffusers

    family = base.family
    stored = read_json(base.folder / family.denoiser / "config.json")
    with torch.device("meta"):
        network = getattr(diffusers, stored["_class_name"]).from_config(stored)
    with quiet_libraries():
        network.to(DTYPES[config.base_dtype]).requires_grad_(False)
    targets = config.lora.unet_targets
    if "unet_targets" not in config.lora.model_fields_set:
        targets = family.targets
    add_lora(network, targets, config.lora, seed=0)
    if config.training.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    size_px = learn.images.shape[1] if learn else config.size_px or base.size_px
    side = size_px // shrinkage_of(base.folder)
    channels = network.config.in_channels // (4 if family.packs else 1)
    width, pooled = _widths(stored)

    def forward(count: int) -> Tensor:
        tokens = max(most or 77 for most in family.tokens.values())
        zeros = partial(torch.zeros, dtype=DTYPES[config.base_dtype])
        given = {
            "prompt_embeds": zeros(count, tokens, width),
            "pooled_prompt_embeds": zeros(count, pooled),
        }
        noisy = zeros(count, channels, side, side)
        return FORWARDS[family.name](network, noisy, torch.zeros(count), given, size_px)

    return Sketch(name=base.name, network=network, forward=forward, size_px=size_px)


def _widths(stored: Mapping[str, Any]) -> tuple[int, int]:
    """Return the widths of a prompt's tokens and of its pooled vector that a denoiser takes."""
    if "pooled_projection_dim" in stored:
        return stored["joint_attention_dim"], stored["pooled_projection_dim"]
    times = 6 * stored["addition_time_embed_dim"]
    return stored["cross_attention_dim"], stored["projection_class_embeddings_input_dim"] - times
