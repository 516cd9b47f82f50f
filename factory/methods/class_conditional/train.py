"""A class-conditional generator from scratch: real images in, a generator folder out.

images + split -> autoencoder -> latents, once -> denoiser -> generator folder
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from factory.digest import digest, digest_bytes
from factory.errors import ConfigError
from factory.finetune.alignment import expert_of, features_of
from factory.finetune.autoencoder import (
    Lesson,
    autoencoder_of,
    check_latent_scale,
    load_first_stage,
    train_first_stage,
)
from factory.finetune.autoencoder_losses import feature_distance
from factory.finetune.data import Material, encoded, load_material, take_material
from factory.finetune.images import choose_images, val_images
from factory.finetune.latents import TURNS
from factory.finetune.losses import training_scheduler
from factory.finetune.memory import Sketch
from factory.finetune.method import Follow, Task, task_of
from factory.finetune.plan import Plan, planned
from factory.finetune.run import figures_of, finished, manifest_of, marks_of, sheet_of
from factory.finetune.workers import Workers
from factory.methods.class_conditional.config import ClassConditionalConfig
from factory.methods.class_conditional.denoiser import build_network, class_training
from factory.models.autoencoder import small_autoencoder
from factory.models.card import class_card
from factory.models.conditioning import prompt_tokenizer, small_text_encoder, tokenize
from factory.models.export import write_generator
from factory.models.generator import EVERY_CLASS, Generator, find_generator
from factory.models.prompts import Reader
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.terminal import Tell

Text = tuple[CLIPTokenizer, CLIPTextModel] | None
"""Of the classes' texts, where the condition is one."""


def prepare(
    config: ClassConditionalConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    stages: Path | None = None,
    tell: Tell,  # noqa: ARG001 -- there is nothing to say
) -> Plan:
    """Choose the images, and build both networks on paper; see `Training.prepare`.

    Raises:
        DataError: see `choose_images`; images without the masks that are asked for.
        ConfigError: widths that do not fit, an aligned run without expert.
        ModelError: the autoencoder's base or the perceptual weights cannot be loaded.
    """
    expert_of(config)
    ids = choose_images(dataset, split, config)
    masks = config.unet.conditioning == "concat"
    take = partial(take_material, dataset, split=split, size_px=config.size_px, masks=masks)
    learn = take(ids)
    _check_networks(config, learn.class_names)
    held = val_images(dataset, split, learn.class_names)
    values = torch.unique(learn.masks).tolist() if learn.masks is not None else []
    return planned(
        config,
        learn,
        take(held) if held else None,
        field=dataset.shown(config.size_px, ids),
        targets=(EVERY_CLASS,),
        output=output,
        stages=stages,
        facts={"autoencoder_id": _autoencoder_id(config, learn), "mask_values": values},
    )


def trains_first(plan: Plan) -> bool:
    """Whether the autoencoder is still to be trained."""
    return plan.config.autoencoder.steps > 0 and not autoencoder_folder(plan).exists()


def first_stage(plan: Plan, *, device: str, follow: Follow) -> None:
    """Train the autoencoder and keep what it makes of the images.

    Raises:
        ModelError: latents whose spread no noise schedule is made for.
    """
    config, learn = plan.config, load_material(plan.learn)
    lesson = Lesson(
        images=learn.images,
        seed=config.seed,
        turns=config.turns,
        depends_on={"autoencoder_id": plan.facts["autoencoder_id"]},
        device=device,
    )
    autoencoder = train_first_stage(
        config.autoencoder, lesson, autoencoder_folder(plan), follow=follow
    )
    latents = encoded_part(plan, plan.learn, autoencoder, device=device).latents
    check_latent_scale(latents * autoencoder.config.scaling_factor)
    if plan.held_out:
        encoded_part(plan, plan.held_out, autoencoder, device=device)


def depends_on(plan: Plan, _target: str) -> Mapping[str, Any]:
    """Return all that the denoiser's weights depend on."""
    config, learn = plan.config, load_material(plan.learn)
    unused = {"cluster", "validation", "name", "autoencoder"}
    if not config.alignment.weight:
        unused |= {"alignment", "expert"}
    known: dict[str, Any] = config.model_dump(mode="json", exclude=unused)
    return known | {
        "autoencoder_id": plan.facts["autoencoder_id"],
        "split_digest": learn.split_digest,
        "pixels": learn.digest,
    }


def task(plan: Plan, target: str, workers: Workers) -> Task:
    """Return the denoiser ready to be trained."""
    config, learn = plan.config, load_material(plan.learn)
    autoencoder, text = load_first_stage(autoencoder_folder(plan)), None
    text = text_parts(config, learn.class_names)
    network = _network(plan, learn.class_names, autoencoder, text)
    tokens: Tensor | None = None
    if text is not None:
        tokens = tokenize(text[0], [config.prompt_of(name) for name in learn.class_names])
    read: Any = load_material
    if config.latents == "cached":
        read = partial(encoded_part, plan, autoencoder=autoencoder, device=workers.device)
    learn, held_out = read(plan.learn), read(plan.held_out) if plan.held_out else None
    training = class_training(
        network, config, autoencoder, tokens=tokens, expert=expert_of(config), workers=workers
    )

    return task_of(
        training,
        learn,
        held_out,
        depends_on=depends_on(plan, target),
        sample=training.samples(text[0] if text else None),
        rows=learn.class_names,
    )


def export(plan: Plan) -> Generator:
    """Write `output/generator` from the finished stages and return it."""
    config, learn = plan.config, load_material(plan.learn)
    (result, tensors), autoencoder = finished(plan), load_first_stage(autoencoder_folder(plan))
    text = text_parts(config, learn.class_names)
    network = _network(plan, learn.class_names, autoencoder, text)
    network.load_state_dict(tensors)
    results = {EVERY_CLASS: result}
    manifest = manifest_of(
        plan,
        learn,
        results,
        prompts={name: config.prompt_of(name) for name in learn.class_names},
        base_model_id=None,
        autoencoder_base=config.autoencoder.base,
        licence="unknown",
    )
    pictures = sheet_of(results)
    scheduler = training_scheduler(config.noise)
    parts = {"unet": network.unet, "vae": autoencoder, "scheduler": scheduler}
    if text is not None:
        parts |= {"tokenizer": text[0], "text_encoder": network.text_encoder}
    return write_generator(
        plan.output / "generator",
        parts=parts,
        manifest=manifest,
        card=class_card(manifest, figures_of(manifest, pictures)),
        files=pictures | marks_of(learn),
    )


def sketch(config: ClassConditionalConfig, learn: Material | None) -> Sketch:
    """Return the denoiser on paper."""
    class_names = learn.class_names if learn else config.only or ("one", "another")
    levels, channels = _latents(config)
    text = text_parts(config, class_names)
    with torch.device("meta"):
        network = build_network(
            config,
            class_names,
            latent_channels=channels,
            text_encoder=small_text_encoder(text[0], width=config.unet.context_dim)
            if text
            else None,
            mask_values=(0, 1) if config.unet.conditioning == "concat" else (),
        )
    side = config.size_px // 2 ** (levels - 1)

    def forward(count: int) -> Tensor:
        latents, zeros = torch.zeros(count, channels, side, side), torch.zeros(count).long()
        condition = zeros
        if text is not None:
            condition = zeros[:, None].expand(count, text[0].model_max_length)
        elif config.unet.conditioning == "concat":
            condition = torch.zeros(count, 2, side, side)
        prediction: Tensor = network(latents, zeros, condition, zeros == 0)
        return prediction

    return Sketch(name=config.name, network=network, forward=forward, size_px=config.size_px)


def encoded_part(
    plan: Plan, path: Path, autoencoder: AutoencoderKL, *, device: str = "cpu"
) -> Material:
    """Return the images in `path` with their latents, made once, and their features."""
    return encoded(
        load_material(path),
        plan.stages,
        autoencoder,
        named=plan.facts["autoencoder_id"],
        turns=TURNS if plan.config.turns else 1,
        device=device,
        features_of=features_of(expert_of(plan.config), plan.config.alignment),
    )


def autoencoder_folder(plan: Plan) -> Path:
    """Return the folder of the finished first stage."""
    return plan.stages / f"autoencoder-{plan.facts['autoencoder_id']}"


def _network(plan: Plan, class_names: Sequence[str], autoencoder: AutoencoderKL, text: Text) -> Any:
    return build_network(
        plan.config,
        class_names,
        latent_channels=autoencoder.config.latent_channels,
        text_encoder=text[1] if text else None,
        mask_values=plan.facts["mask_values"],
    )


def text_parts(config: ClassConditionalConfig, class_names: Sequence[str]) -> Text:
    """Return a tokenizer of the classes' texts and an untrained encoder, where texts are read."""
    if config.unet.conditioning != "text":
        return None
    tokenizer = prompt_tokenizer([config.prompt_of(name) for name in class_names])
    torch.manual_seed(config.seed + 2)  # noqa: TID251 -- initial weights have no generator argument
    return tokenizer, small_text_encoder(tokenizer, width=config.unet.context_dim)


def _check_networks(config: ClassConditionalConfig, class_names: tuple[str, ...]) -> None:
    """Build both networks without memory, and the latents' way through them on paper."""
    stage = config.autoencoder
    feature_distance(stage.perceptual)
    if stage.base is None:
        with torch.device("meta"):
            small_autoencoder(channels=stage.channels, layers_per_block=stage.layers_per_block)
    levels, channels = _latents(config)
    with torch.device("meta"):
        build_network(config, class_names, latent_channels=channels, mask_values=(0, 1))
    if config.unet.conditioning == "text":
        prompts = {name: config.prompt_of(name) for name in class_names}
        reader = Reader.of(prompt_tokenizer(prompts.values()))
        for name, prompt in prompts.items():
            if cut := reader.read(prompt).cut:
                raise ConfigError(
                    f"the prompt of {name!r} is too long: {cut!r} would be cut off",
                    remedy="Give it a shorter one (classes: {name: prompt})",
                )
    least = 2 ** (levels - 1 + sum(config.unet.down_sample))
    if config.size_px % least:
        raise ConfigError(
            f"images of {config.size_px} px cannot be halved {least.bit_length() - 1} times",
            remedy=f"Choose a size_px that is a multiple of {least}, or fewer levels",
        )


def _latents(config: ClassConditionalConfig) -> tuple[int, int]:
    """Return the levels of the autoencoder and the channels of its latents."""
    stage = config.autoencoder
    if stage.base is None:
        return len(stage.channels), stage.latent_channels
    stored = autoencoder_of(stage.base, stage.revision).config
    return len(stored.block_out_channels), stored.latent_channels


def _autoencoder_id(config: ClassConditionalConfig, learn: Material) -> str:
    stage = config.autoencoder
    base = find_generator(stage.base, revision=stage.revision).model_id if stage.base else None
    weights = digest_bytes(stage.perceptual.read_bytes()) if stage.perceptual else None
    knobs = stage.model_dump(mode="json", exclude={"base", "revision", "perceptual"})
    return digest([knobs, base, weights, learn.digest, config.turns, config.seed])
