"""Adapting a text-conditioned base to new images: LoRA or all weights, aligned or not.

    images -> (autoencoder adapted) -> latents, once -> a training for every target -> LoRAs

A target is one class, or all of them. A base of nothing is trained in `factory.methods.text.base`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from factory.device import own_device
from factory.digest import digest, digest_bytes
from factory.errors import ConfigError
from factory.finetune.alignment import (
    expert_of,
    features_of,
)
from factory.finetune.autoencoder import Lesson, train_first_stage
from factory.finetune.config import ANY, AutoencoderAdaptation, FirstStageConfig
from factory.finetune.data import Material, encoded, load_material, take_material
from factory.finetune.images import choose_images, val_images
from factory.finetune.latents import TURNS
from factory.finetune.memory import Sketch
from factory.finetune.method import Follow, InTraining, Task, task_of
from factory.finetune.plan import Plan, planned
from factory.finetune.run import Result, figures_of, finished, manifest_of, marks_of, sheet_of
from factory.finetune.stages import check_seal, seal
from factory.finetune.train import follow_here
from factory.finetune.workers import Workers
from factory.methods.text.adapt import (
    TextConditioned,
    adapt,
    described,
    drawn_classes,
    text_samples,
    text_sketch,
    with_classes_of,
    with_read_prompts,
)
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.lora import adapt_family, check_family, family_samples, family_sketch
from factory.models.adapters import write_adapters
from factory.models.card import adapted_licence, finetuned_card
from factory.models.conditioning import check_text_parts
from factory.models.export import write_generator
from factory.models.families import STABLE_DIFFUSION
from factory.models.foreign import find_drawn
from factory.models.generator import EVERY_CLASS, Generator, open_generator
from factory.models.lora import LoraNotes
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.pipeline import load_autoencoder, load_pipeline
from factory.models.prompts import Reader, open_reader
from factory.models.windowed import set_attention_window
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.terminal import Tell

CHOICE = ("only", "n_shot", "seed", "unlabelled")
"""Keys that decide which images are learnt from: who reads a manifest finds them there."""
PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")


def prepare(
    config: FinetuneConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    stages: Path | None = None,
    tell: Tell,
) -> Plan:
    """Choose the images and read the prompts as the base reads them; see `Training.prepare`.

    Raises:
        ConfigError: `separate` with all weights, an aligned run without expert, a base whose parts
            do not belong together, or classes that it could not tell apart.
        DataError: see `choose_images`.
        ModelError: the base or the expert cannot be loaded.
    """
    if config.separate and config.train == "full":
        raise ConfigError(
            "separate: true trains a LoRA for every class, and train is 'full'",
            remedy="Set train: lora, or separate: false",
        )
    expert_of(config)
    ids = choose_images(dataset, split, config)
    base = found_base(config)
    if config.autoencoder.steps and PatchAutoencoder.is_in(base.folder / "vae"):
        # It has no network, and shows every stain: 37 dB of wbc_seg1 and 30 dB of crc_torino in the
        # components of other cells (docs/studies/base.md).
        tell(f"autoencoder: that of {base.name} is of patches and needs no adapting")
        config = config.model_copy(update={"autoencoder": AutoencoderAdaptation()})
    config, reader = checked(config, base)
    size_px = config.size_px or base.size_px
    called = dict.fromkeys(dataset.class_names, ANY) if config.unlabelled else {}
    learn = take_material(dataset, ids, split, size_px=size_px, called=called)
    config = with_classes_of(base, config) if config.unlabelled else config
    config = with_read_prompts(config, drawn_classes(config, learn), reader, tell)
    held = split.val if config.unlabelled else val_images(dataset, split, learn.class_names)
    return planned(
        config,
        learn,
        take_material(dataset, held, split, size_px=size_px, called=called) if held else None,
        field=dataset.shown(size_px, ids, called=called),
        targets=learn.class_names if config.separate else (EVERY_CLASS,),
        output=output,
        stages=stages,
        facts={"base_model_id": base.model_id},
    )


def found_base(config: FinetuneConfig) -> Generator:
    """Return the base that a configuration names, with the LoRA that lies under what is trained.

    Raises:
        ConfigError, ModelError: see `find_drawn`.
    """
    lora = config.base_lora
    scale = None if lora is None else config.base_lora_scale
    return find_drawn(config.base, revision=config.revision, lora=lora, lora_scale=scale)


def checked(config: FinetuneConfig, base: Generator) -> tuple[FinetuneConfig, Reader | None]:
    """Return `config` with what the base's family decides, and what reads its prompts.

    Raises:
        ConfigError: a base whose parts do not belong together, or that is not trained so.
        ModelError: it cannot be loaded.
    """
    if base.family is not STABLE_DIFFUSION:
        return check_family(config, base), open_reader(base.folder, base.family.tokens)
    if config.base_dtype != "float32":
        raise ConfigError(
            f"base_dtype {config.base_dtype!r}: a {STABLE_DIFFUSION.name} base learns in float32",
            remedy="Leave base_dtype out; training.precision: bfloat16 computes in it",
        )
    pipeline = load_pipeline(base)
    check_text_parts(pipeline)
    return config, Reader.of(pipeline.tokenizer)


def trains_first(plan: Plan) -> bool:
    """Whether the autoencoder of the base is still to be adapted."""
    return plan.config.autoencoder.steps > 0 and not _adapted_folder(plan).is_dir()


def first_stage(plan: Plan, *, device: str, follow: Follow) -> None:
    """Adapt the autoencoder of the base where that is asked for, and encode the images."""
    if plan.config.autoencoder.steps:
        adapt_autoencoder(plan, load_material(plan.learn), device=device, follow=follow)
    base = base_of(plan)
    autoencoder = load_autoencoder(base)
    for path in (plan.learn, plan.held_out):
        if path is not None:
            encoded_part(plan, path, base, autoencoder, device=device)


def encoded_part(
    plan: Plan, path: Path, base: Generator, autoencoder: Any, *, device: str = "cpu"
) -> Material:
    """Return the images in `path` with their latents, made once, and what an expert sees in them.

    `autoencoder` is that of `base`.
    """
    return encoded(
        load_material(path),
        plan.stages,
        autoencoder,
        named=base.model_id,
        turns=TURNS if plan.config.turns else 1,
        device=device,
        features_of=features_of(expert_of(plan.config), plan.config.alignment),
    )


def base_of(plan: Plan) -> Generator:
    """Return the base that is adapted: as it is named, or with its adapted autoencoder.

    Raises:
        ConfigError: the machines hold different files of that name.
        ModelError: an adapted one that is not there yet, or was changed.
    """
    config = plan.config
    base = found_base(config)
    if base.model_id != plan.facts["base_model_id"]:
        raise ConfigError(
            f"base {config.base} is {base.model_id} here, and was"
            f" {plan.facts['base_model_id']} in the plan",
            remedy="Put the same files on every machine",
        )
    if not config.autoencoder.steps:
        return base
    folder = _adapted_folder(plan)
    check_seal(folder)
    return open_generator(folder)


def depends_on(plan: Plan, target: str) -> Mapping[str, Any] | None:
    """Return all that the weights of a target depend on; None: that is not made yet."""
    return None if trains_first(plan) else _depends_on(plan, target, base_of(plan))


def _depends_on(plan: Plan, target: str, base: Generator) -> Mapping[str, Any]:
    config, part = plan.config, _part(load_material(plan.learn), target)
    unused = {"cluster", "validation", "name", "autoencoder", "lora_scale"}
    found: dict[str, Any] = config.model_dump(mode="json", exclude=unused)
    if config.autoencoder.steps:
        found |= {"base": str(base.folder), "revision": None}
    return found | {
        "base_model_id": base.model_id,
        "split_digest": part.split_digest,
        "ids_digest": part.ids_digest,
    }


def task(plan: Plan, target: str, workers: Workers) -> Task:
    """Return the base ready to be trained on the images of a target."""
    config, base = plan.config, base_of(plan)
    pipeline = load_pipeline(base, dtype=config.base_dtype)
    half = config.base_dtype != "float32"
    vae = load_autoencoder(base) if half else pipeline.vae
    encode = partial(encoded_part, plan, base=base, autoencoder=vae, device=workers.device)
    everything = encode(plan.learn)
    learn = _part(everything, target)
    held_out = _part(encode(plan.held_out), target) if plan.held_out else None
    names = drawn_classes(config, everything)
    training: InTraining
    if base.family is STABLE_DIFFUSION:
        training = adapt(pipeline, config, names, expert=expert_of(config), workers=workers)
        sample = text_samples(training, learn.images.shape[1])
    else:
        training = adapt_family(pipeline, base, config, names, workers=workers)
        sample = family_samples(training)
    return task_of(
        training,
        learn,
        held_out,
        depends_on=_depends_on(plan, target, base),
        sample=sample,
        rows=drawn_classes(config, learn),
    )


def export(plan: Plan) -> Generator:
    """Write `output/generator` from the finished targets and return it.

    Its card shows the samples that were drawn with the weights it has, and their figures.
    """
    config, base, learn = plan.config, base_of(plan), load_material(plan.learn)
    made_here = config.autoencoder.steps > 0
    names = drawn_classes(config, learn)
    done = {target: finished(plan, target) for target in plan.targets}
    results: dict[str, Result] = {target: result for target, (result, _) in done.items()}
    manifest = manifest_of(
        plan,
        learn,
        results,
        class_names=list(names),
        prompts={name: config.prompt_of(name) for name in names},
        base=base.manifest.get("name", config.base) if made_here else config.base,
        base_revision=config.revision,
        base_model_id=base.model_id,
        lora_scale=config.lora_scale,
        **({} if config.base_lora is None else {"base_lora_scale": config.base_lora_scale}),
        licence=adapted_licence(base.manifest),
    )
    folder, pictures = plan.output / "generator", sheet_of(results)
    card = finetuned_card(manifest, figures_of(manifest, pictures))
    files = pictures | marks_of(learn)
    if config.train == "full":
        pipeline = load_pipeline(base)
        if config.attention_window is not None:
            set_attention_window(pipeline.unet, config.attention_window)
        trained = TextConditioned(pipeline.unet, pipeline.text_encoder)
        trained.load_state_dict(done[EVERY_CLASS][1])
        parts = {name: getattr(pipeline, name) for name in ("vae", *PARTS)}
        return write_generator(folder, parts=parts, manifest=manifest, card=card, files=files)
    write_adapters(
        folder,
        {t: (tensors, _notes(config, base, _part(learn, t))) for t, (_, tensors) in done.items()},
        manifest=manifest,
        card=card,
        files=files,
        base=base.folder if made_here else None,
        base_lora=None if made_here else config.base_lora,
    )
    return open_generator(folder)


def sketch(config: FinetuneConfig, learn: Material | None) -> Sketch:
    """Return the network on paper; the base may be a folder of configurations alone."""
    base = described(config)
    of_family = text_sketch if base.family is STABLE_DIFFUSION else family_sketch
    return of_family(config, base, learn)


def _notes(config: FinetuneConfig, base: Generator, part: Material) -> LoraNotes:
    return LoraNotes(
        base_model_id=base.model_id,
        dataset_fingerprint=part.dataset_fingerprint,
        split_digest=part.split_digest,
        ids_digest=part.ids_digest,
        class_names=part.class_names,
        settings=config.lora,
    )


def _part(material: Material, target: str) -> Material:
    return material if target == EVERY_CLASS else material.of_class(target)


def adapt_autoencoder(plan: Plan, learn: Material, *, device: str, follow: Follow) -> Generator:
    """Return the base of `plan` with its autoencoder trained on `learn`; one that is there is kept.

    An autoencoder that knows one stain paints every other in its colours. On 240 unseen histology
    tiles (crc_torino, 64 px) that of wbc-base reaches 20.3 dB and a KID of 0.188 to real tiles
    (floor -0.001, efficientnet_lite0); after 800 steps on 720 others 24.0 dB and 0.055.

    Its scaling factor is measured anew. U-Net and text encoder stay as they were and do not fit its
    latents yet: a fine-tuning begins here. Neither the base nor its files change.

    Raises:
        ModelError: the base cannot be loaded, or the loss is no number any more.
    """
    config, folder = plan.config, _adapted_folder(plan)
    if folder.is_dir():
        check_seal(folder)
        return open_generator(folder)
    base = found_base(config)
    told = _adaptation(plan, learn)
    settings = config.autoencoder
    autoencoder = train_first_stage(
        FirstStageConfig(base=str(base.folder), **settings.model_dump()),
        Lesson(
            images=learn.images,
            seed=config.seed,
            turns=config.turns,
            depends_on=told,
            device=device,
        ),
        plan.stages / f"autoencoder-{digest(told)}",
        follow=follow,
    )
    manifest = {
        "name": f"{base.manifest.get('name', 'base')}-autoencoder",
        "method": base.method,
        "size_px": learn.images.shape[1],
        "class_names": list(base.class_names),
        "prompts": dict(base.prompts),
        "split_digest": learn.split_digest,
        "dataset_fingerprint": learn.dataset_fingerprint,
        "base": base.manifest.get("name", "unknown"),
        "base_model_id": base.model_id,
        "licence": adapted_licence(base.manifest),
        "config": told | config.model_dump(mode="json", include=set(CHOICE)),
        "images_trained": len(learn),
        "steps_trained": settings.steps,
    }
    pipeline = load_pipeline(base)
    adapted = write_generator(
        folder,
        parts={"vae": autoencoder} | {name: getattr(pipeline, name) for name in PARTS},
        manifest=manifest,
        card=finetuned_card(manifest),
    )
    seal(folder)
    return adapted


def with_adapted_autoencoder(
    config: FinetuneConfig, dataset: RealDataset, split: Split, *, stages: Path, tell: Tell
) -> FinetuneConfig:
    """Return `config` with the base that `adapt_autoencoder` makes in `stages`; itself for 0 steps.

    For several trainings that share it.
    """
    if not config.autoencoder.steps:
        return config
    plan = prepare(config, dataset, split, stages, tell=tell)
    if not plan.config.autoencoder.steps:
        return config.model_copy(update={"autoencoder": AutoencoderAdaptation()})
    follow = partial(follow_here, tell=lambda line: tell(f"autoencoder: {line}"))
    learn = load_material(plan.learn)
    adapted = adapt_autoencoder(plan, learn, device=own_device(), follow=follow)
    made = {"base": str(adapted.folder), "revision": None, "autoencoder": AutoencoderAdaptation()}
    return config.model_copy(update=made)


def _adapted_folder(plan: Plan) -> Path:
    return plan.stages / f"base-{digest(_adaptation(plan, load_material(plan.learn)))}"


def _adaptation(plan: Plan, learn: Material) -> dict[str, Any]:
    """Return all that an adapted autoencoder depends on."""
    settings, weights = plan.config.autoencoder, plan.config.autoencoder.perceptual
    return {
        "settings": settings.model_dump(mode="json", exclude={"perceptual"}),
        "perceptual": digest_bytes(weights.read_bytes()) if weights else None,
        "base_model_id": plan.facts["base_model_id"],
        "split_digest": learn.split_digest,
        "ids_digest": digest(list(learn.ids)),
        "size_px": learn.images.shape[1],
        "turns": plan.config.turns,
        "seed": plan.config.seed,
    }
