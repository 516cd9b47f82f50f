"""A base from scratch: autoencoder, then U-Net and text encoder together, with varied prompts.

images + attributes -> autoencoder -> latents -> denoiser -> generator folder in half precision
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factory.digest import digest, digest_bytes
from factory.finetune.alignment import (
    expert_of,
    features_of,
)
from factory.finetune.autoencoder import (
    Lesson,
    autoencoder_of,
    fit_first_stage,
    load_first_stage,
    train_first_stage,
)
from factory.finetune.config import PatchConfig
from factory.finetune.data import Material, encoded, load_material, take_material
from factory.finetune.images import choose_images, val_images
from factory.finetune.losses import (
    training_scheduler,
)
from factory.finetune.memory import Sketch
from factory.finetune.method import Follow, Task, task_of
from factory.finetune.plan import Plan, planned
from factory.finetune.run import figures_of, finished, manifest_of, marks_of, sheet_of
from factory.finetune.workers import Workers
from factory.methods.text.adapt import TextConditioned, text_samples
from factory.methods.text.config import BaseConfig
from factory.methods.text.pretraining import build_denoiser, pretraining
from factory.models.autoencoder import Autoencoder, shrinkage
from factory.models.card import base_card
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.models.generator import EVERY_CLASS, Generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.unets import small_unet
from factory.real.dataset import RealDataset
from factory.real.field import cut_from
from factory.real.splits import Split
from factory.terminal import Tell


def prepare(
    config: BaseConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    stages: Path | None = None,
    tell: Tell,  # noqa: ARG001 -- there is nothing to say
) -> Plan:
    """Choose the images and their attributes; see `Training.prepare`.

    Raises:
        ConfigError: an aligned run without expert.
        DataError: see `choose_images`.
    """
    expert_of(config)
    ids = choose_images(dataset, split, config)
    take = partial(take_material, dataset, split=split, size_px=config.size_px, attributes=True)
    learn = take(ids)
    held = val_images(dataset, split, learn.class_names)
    return planned(
        config,
        learn,
        take(held) if held else None,
        field=cut_from(config.frames, dataset.shown(config.size_px, ids)),
        targets=(EVERY_CLASS,),
        output=output,
        stages=stages,
    )


def trains_first(plan: Plan) -> bool:
    """Whether the autoencoder is still to be trained."""
    stage = plan.config.autoencoder
    fitted = isinstance(stage, PatchConfig) or stage.steps == 0
    return not fitted and not (autoencoder_folder(plan) / "config.json").exists()


def first_stage(plan: Plan, *, device: str, follow: Follow) -> None:
    """Train or fit the autoencoder, and keep what it makes of the images.

    Latents of patches are not kept: encoding them is cheaper than reading what would be.
    """
    config, learn, folder = plan.config, load_material(plan.learn), autoencoder_folder(plan)
    if isinstance(config.autoencoder, PatchConfig):
        autoencoder: Autoencoder = fit_first_stage(config.autoencoder, learn.images, folder)
    else:
        lesson = Lesson(
            images=learn.images, seed=config.seed, depends_on=_stored(config), device=device
        )
        autoencoder = train_first_stage(config.autoencoder, lesson, folder, follow=follow)
    for path in (plan.learn, plan.held_out):
        if path is not None:
            _encoded(plan, load_material(path), autoencoder, device=device)


def autoencoder_folder(plan: Plan) -> Path:
    """Return the folder of the finished first stage; older code gave it no name of its own."""
    config, before = plan.config, plan.stages / "autoencoder"
    if before.exists() or before.with_name("autoencoder-checkpoints").exists():
        return before
    stage, weights = config.autoencoder, getattr(config.autoencoder, "perceptual", None)
    told = stage.model_dump(mode="json") | {
        "perceptual": digest_bytes(weights.read_bytes()) if weights else None
    }
    name = digest([told, load_material(plan.learn).digest, config.seed])
    return plan.stages / f"autoencoder-{name}"


def depends_on(plan: Plan, _target: str) -> Mapping[str, Any]:
    """Return what a checkpoint depends on; steps and decay may change to extend a run."""
    stored = resumable(plan.config)
    return stored | {"split_digest": load_material(plan.learn).split_digest}


def resumable(config: BaseConfig) -> dict[str, Any]:
    """Return what of a configuration a checkpoint depends on."""
    stored = _stored(config)
    for key in ("steps", "decay_steps"):
        stored["denoiser"].pop(key)
    return stored


def _stored(config: BaseConfig) -> dict[str, Any]:
    unused = {"frames", "validation", "cluster"}
    if not config.alignment.weight:
        unused |= {"alignment", "expert"}
    stored: dict[str, Any] = config.model_dump(mode="json", exclude=unused)
    if "perceptual" in stored["autoencoder"]:
        stored["autoencoder"]["perceptual"] = None  # a path; its content names the autoencoder
    return stored


def task(plan: Plan, target: str, workers: Workers) -> Task:
    """Return the networks ready to be trained."""
    config, autoencoder = plan.config, load_first_stage(autoencoder_folder(plan))
    encode = partial(_encoded, plan, autoencoder=autoencoder, device=workers.device)
    learn = encode(load_material(plan.learn))
    held_out = encode(load_material(plan.held_out)) if plan.held_out else None
    training = pretraining(learn, config, autoencoder.cpu(), workers)

    return task_of(
        training,
        learn,
        held_out,
        depends_on=depends_on(plan, target),
        sample=text_samples(training, config.size_px),
        rows=learn.class_names,
    )


def export(plan: Plan) -> Generator:
    """Write `output/generator`, in half precision, and return it."""
    config, learn = plan.config, load_material(plan.learn)
    (result, tensors), autoencoder = finished(plan), load_first_stage(autoencoder_folder(plan))
    model, tokenizer = build_denoiser(learn, config, autoencoder)
    model.load_state_dict(tensors)
    results = {EVERY_CLASS: result}
    manifest = manifest_of(
        plan,
        learn,
        results,
        prompts={name: config.prompt_of(name) for name in learn.class_names},
        base_model_id=None,
        licence=config.licence,
    )
    pictures = sheet_of(results)
    return write_generator(
        plan.output / "generator",
        parts={
            "unet": model.unet,
            "vae": autoencoder,
            "text_encoder": model.text_encoder,
            "tokenizer": tokenizer,
            "scheduler": training_scheduler(config.noise),
        },
        manifest=manifest,
        card=base_card(manifest, figures_of(manifest, pictures)),
        files=pictures | marks_of(learn),
        dtype=torch.float16,
    )


def sketch(config: BaseConfig, learn: Material | None) -> Sketch:
    """Return the networks on paper; without images their prompts have no words of their own."""
    stage = config.autoencoder
    if isinstance(stage, PatchConfig):
        channels, shrinks = stage.components, stage.patch_px
    elif stage.base is None:
        channels, shrinks = stage.latent_channels, 2 ** (len(stage.channels) - 1)
    else:
        known = autoencoder_of(stage.base, stage.revision)
        channels, shrinks = known.config.latent_channels, shrinkage(known)
    tokenizer = prompt_tokenizer(["a an", *(learn.class_names if learn else ())])
    side = config.size_px // shrinks
    with torch.device("meta"):
        text_encoder = small_text_encoder(tokenizer)
        unet = small_unet(
            sample_size_latent=side,
            channels=config.denoiser.channels,
            in_channels=channels,
            resnet_time_scale_shift=config.denoiser.resnet_time_scale_shift,
            cross_attention_dim=text_encoder.config.hidden_size,
        )
        network = TextConditioned(unet, text_encoder)

    def forward(count: int) -> Tensor:
        tokens = torch.zeros(count, tokenizer.model_max_length, dtype=torch.long)
        latents = torch.zeros(count, channels, side, side)
        prediction: Tensor = network(latents, torch.zeros(count, dtype=torch.long), tokens)
        return prediction

    return Sketch(name=config.name, network=network, forward=forward, size_px=config.size_px)


def _encoded(plan: Plan, material: Material, autoencoder: Autoencoder, *, device: str) -> Material:
    """Return the images with their latents, but for those of patches, which cost less than a file.

    What an expert sees in them is kept with the latents.
    """
    seen = features_of(expert_of(plan.config), plan.config.alignment)
    if isinstance(autoencoder, PatchAutoencoder) and seen is None:
        return material
    named = autoencoder_folder(plan).name + plan.config.name
    return encoded(material, plan.stages, autoencoder, named=named, device=device, features_of=seen)
