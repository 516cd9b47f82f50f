"""A base generator from scratch: autoencoder, latents, denoiser, a diffusers folder.

Every stage leaves its result in the output folder and is skipped when the result is there, so a
killed run goes on where it was. The stages are plain functions: `factory.finetune.train` runs them
on Ray Train, tests and a lone GPU box call them directly.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from factory.atomic import new_folder, write_text
from factory.errors import ConfigError, ModelError
from factory.finetune.base_config import STABLE_DIFFUSION, BaseConfig, PatchConfig
from factory.finetune.class_config import NoiseConfig
from factory.finetune.first_stage import Lesson, fit_first_stage, train_first_stage
from factory.finetune.latents import (
    Latents,
    cached_latents,
    encode_turned,
    encoded_latents,
    scaled_latents,
    to_signed,
)
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.losses import (
    FeatureDistance,
    add_noise,
    denoising_loss,
)
from factory.finetune.meter import Progress
from factory.finetune.order import Part, step_indices, step_random
from factory.finetune.stages import check_seal, seal
from factory.finetune.workers import Workers, place, uses_bfloat16
from factory.models.autoencoder import Autoencoder, shrinkage
from factory.models.conditioning import prompt_tokenizer, small_text_encoder, tokenize
from factory.models.generator import find_generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.prompts import vary_prompt
from factory.models.unets import small_unet
from factory.real.dataset import RealDataset
from factory.real.field import Shown, cut_from
from factory.real.splits import Split

LOOKED_AT, ALIKE = 8, 0.5
"""Images by which two autoencoders are compared, and how far apart their latents may lie, in
standard deviations: rounded weights do less, components of another sign 1 and more."""
Report = Callable[[Progress], None]
FIELD = "train-field.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The train part in memory: images (N, S, S, 3) uint8, a class and attributes for each."""

    images: Tensor
    labels: Sequence[str]
    attributes: Sequence[Mapping[str, str | None]]


def prepare_data(dataset: RealDataset, split: Split, config: BaseConfig, output: Path) -> None:
    """Write the train part (and nothing of val or test) where every worker can read it."""
    save_file(
        {"images": torch.from_numpy(dataset.array(config.size_px, split.train))},
        output / "train-images.safetensors",
    )
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    facts = [
        {"label": labels[i], "attributes": dict(dataset.attributes.get(i, {}))} for i in split.train
    ]
    write_text(output / "train-facts.json", json.dumps(facts))
    shown = cut_from(config.frames, dataset.shown(config.size_px, split.train))
    write_text(output / FIELD, shown.model_dump_json())


def load_data(output: Path) -> TrainingSet:
    """Return what `prepare_data` wrote.

    Raises:
        ModelError: it is missing or damaged.
    """
    with restoring(output / "train-facts.json") as path:
        facts = json.loads(path.read_text())
        labels = [row["label"] for row in facts]
        attributes = [row["attributes"] for row in facts]
    with restoring(output / "train-images.safetensors") as path:
        images = load_file(path)["images"]
    return TrainingSet(images=images, labels=labels, attributes=attributes)


def load_field(output: Path) -> Shown:
    """Return what the images show that `prepare_data` wrote; older code wrote nothing of it.

    Raises:
        ModelError: it is damaged.
    """
    if not (output / FIELD).exists():
        return Shown()
    with restoring(output / FIELD) as path:
        return Shown.model_validate_json(path.read_bytes())


@contextmanager
def restoring(path: Path) -> Iterator[Path]:
    """Yield the result of an earlier stage; errors in reading it say how to get it again.

    Raises:
        ModelError: missing, truncated, or something else.
    """
    try:
        yield path
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read ({next(iter(str(error).splitlines()), type(error).__name__)})",
            remedy="Delete it and start again: it is made anew, finished stages are kept",
        ) from error


class TextConditioned(nn.Module):
    """U-Net and text encoder as one module: noisy latents, timesteps, tokens to a prediction."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Return the prediction (B, C, h, w) for (B, C, h, w), (B,), (B, MAX_TOKENS)."""
        context = self.text_encoder(tokens)[0]
        prediction: Tensor = self.unet(latents, timesteps, context).sample
        return prediction


def training_scheduler(noise: NoiseConfig = STABLE_DIFFUSION) -> DDPMScheduler:
    """Return a scaled-linear noise schedule; the default is Stable Diffusion's with v-prediction.

    Source: Rombach et al. 2022 (scaled-linear betas 0.00085..0.012); T. Salimans and J. Ho,
    Progressive Distillation, 2022 (v-prediction).
    """
    return DDPMScheduler(
        beta_start=noise.beta_start,
        beta_end=noise.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=noise.prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def train_autoencoder(
    data: TrainingSet,
    config: BaseConfig,
    output: Path,
    *,
    perceptual: FeatureDistance | None,
    report: Report,
) -> Autoencoder:
    """Train or fit (or load, if done) the autoencoder below `output/autoencoder`."""
    folder = output / "autoencoder"
    if isinstance(config.autoencoder, PatchConfig):
        return fit_first_stage(config.autoencoder, data.images, folder)
    lesson = Lesson(
        images=data.images,
        seed=config.seed,
        perceptual=perceptual,
        depends_on=config.model_dump(mode="json", exclude={"frames"}),
    )

    def follow(loop: Loop) -> None:
        for progress in loop.run():
            report(progress)

    return train_first_stage(config.autoencoder, lesson, folder, follow=follow)


def latents_of(
    autoencoder: Autoencoder, data: TrainingSet, config: BaseConfig, output: Path
) -> Latents:
    """Return what gives the latents of a step: from a cache in `output`, or encoded as it comes."""
    if isinstance(autoencoder, PatchAutoencoder):  # cheaper than reading what it would have cached
        return encoded_latents(autoencoder, data.images, seed=config.seed)
    return cached_latents(cache_latents(autoencoder, data, output), seed=config.seed)


def cache_latents(autoencoder: Autoencoder, data: TrainingSet, output: Path) -> Tensor:
    """Return scaled latents (N, 8, C, h, w) float16, computed once into `output`."""
    path = output / "latents.safetensors"
    if not path.exists():
        with new_folder(output / "latents-work") as work:
            save_file({"latents": encode_turned(autoencoder, data.images)}, work / "part")
        (output / "latents-work" / "part").replace(path)
        (output / "latents-work").rmdir()
        seal(path)
    with restoring(path):
        latents: Tensor = load_file(path)["latents"]
    check_seal(path)
    scaled: Tensor = latents * autoencoder.config.scaling_factor
    return scaled


def build_denoiser(
    data: TrainingSet, config: BaseConfig, autoencoder: Autoencoder
) -> tuple[TextConditioned, CLIPTokenizer]:
    """Return the untrained (or the base's) network and the tokenizer of its prompts' words.

    It draws the latents of `autoencoder`: as many channels, at the size that its levels leave.

    Raises:
        ConfigError: a base with other words, other widths, or of another autoencoder's latents.
        ModelError: the base cannot be found or loaded.
    """
    values = {
        name: sorted({v for row in data.attributes if (v := row.get(name)) is not None})
        for name in config.prompt.attributes
    }
    tokenizer = prompt_tokenizer(config.prompt.vocabulary(sorted(set(data.labels)), values))
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
        shown = to_signed(data.images[:LOOKED_AT])
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
    from factory.models.pipeline import load_pipeline

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


def denoiser_loop(
    model: nn.Module,
    tokenizer: CLIPTokenizer,
    latents: Latents,
    data: TrainingSet,
    config: BaseConfig,
    output: Path,
    workers: Workers | None = None,
) -> Loop:
    """Return the resumable loop of the second stage."""
    stage, workers = config.denoiser, workers or Workers()
    scheduler = training_scheduler(config.noise)

    def loss_of(module: nn.Module, part: Part) -> dict[str, Tensor]:
        indices = step_indices(
            part.step, batch_size=stage.batch_size, num_images=len(data.images), seed=config.seed
        )
        tokens = tokenize(tokenizer, _prompts(data, config, indices.tolist(), part))
        noised = add_noise(
            scheduler,
            latents(torch.from_numpy(indices), part).to(workers.device),
            part,
            batch_size=stage.batch_size,
            seed=config.seed,
            levels=stage.noise_levels,
        )
        prediction = module(noised.noisy, noised.timesteps, tokens.to(workers.device))
        loss = denoising_loss(scheduler, noised, prediction, snr_gamma=stage.snr_gamma)
        return {"loss": loss}

    return Loop(
        place(model, workers),
        loss_of,
        LoopConfig(
            steps=stage.steps,
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            decay_steps=stage.decay_steps,
            weight_decay=stage.weight_decay,
            ema_decay=stage.ema_decay,
            resumable=_resumable(config),
            checkpoint_dir=output / "denoiser-checkpoints",
        ),
        workers,
    )


def _prompts(
    data: TrainingSet, config: BaseConfig, indices: Sequence[int], part: Part
) -> list[str]:
    """Return the varied prompts of this part of the step's `indices`."""
    places = part.take(range(len(indices)))
    return [
        vary_prompt(
            config.prompt,
            data.labels[indices[place]],
            data.attributes[indices[place]],
            step_random(part.step, seed=config.seed, place=place),
            condition_dropout=config.denoiser.condition_dropout,
            attribute_dropout=config.denoiser.attribute_dropout,
        )
        for place in places
    ]


def _resumable(config: BaseConfig) -> dict[str, Any]:
    """Return what a checkpoint depends on; steps and decay may change to extend a run."""
    stored: dict[str, Any] = config.model_dump(mode="json", exclude={"frames"})
    for key in ("steps", "decay_steps"):
        stored["denoiser"].pop(key)
    return stored
