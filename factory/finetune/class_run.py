"""A class-conditional training as a whole: real images in, a generator folder out.

    images + split -> autoencoder -> latents, once -> denoiser -> generator folder

Every stage leaves its result in the output folder, under a name made of all that it depends on,
and is skipped when the result is there: a killed run goes on where it was.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from factory.atomic import write_bytes
from factory.errors import ConfigError
from factory.finetune.class_conditional import (
    ClassConditioned,
    ClassTraining,
    build_network,
    class_loop,
    class_training,
    noise_scheduler,
)
from factory.finetune.class_material import ClassMaterial, class_material, encode
from factory.finetune.class_plan import ClassPlan
from factory.finetune.class_samples import class_samples
from factory.finetune.cluster import ClusterConfig
from factory.finetune.config import ValidationConfig
from factory.finetune.finish import SHEET, WEIGHTS, Result
from factory.finetune.first_stage import Follow, Lesson, load_first_stage, train_first_stage
from factory.finetune.latent_scale import check_latent_scale
from factory.finetune.loop import Loop
from factory.finetune.losses import feature_distance
from factory.finetune.material import Material, load_material, measured, save_material, spread
from factory.finetune.pixels import Pixels, load_pixels
from factory.finetune.train import follow, follow_here, this_worker, train_on_ray
from factory.finetune.validation import FEWEST, Distance, Validation
from factory.finetune.workers import Workers, inner
from factory.measure.features import load_feature_space
from factory.models.card import class_card, validation_figures
from factory.models.conditioning import prompt_tokenizer, small_text_encoder, tokenize
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.models.shards import whole

Text = tuple[CLIPTokenizer, CLIPTextModel] | None
"""Of the classes' texts, where the condition is one."""


def finetune_here(plan: ClassPlan, *, tell: Callable[[str], object]) -> Generator:
    """Train both stages in this process and export.

    Raises:
        ConfigError: a GPU is asked for and this machine has none.
    """
    if plan.config.cluster.use_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "use_gpu: true, and this machine has 0 GPUs",
            remedy="Set cluster.use_gpu: false, or train where there are GPUs",
        )
    workers = Workers(device="cuda" if torch.cuda.is_available() else "cpu")

    def run(loop: Any, **how: Any) -> None:
        follow_here(loop, tell=tell, **how)

    tell(f"{plan.config.name}: autoencoder")
    first_stage(plan, run, device=workers.device)
    tell(f"{plan.config.name}: denoiser of {', '.join(plan.class_names)}")
    second_stage(plan, workers, run)
    return export(plan)


def finetune_on_ray(plan: ClassPlan) -> Generator:
    """Train the autoencoder on one worker, the denoiser on as many as asked, and export.

    Raises:
        ConfigError: GPUs are asked for and the cluster has none.
        ClusterError: a stage failed more often than it may.
    """
    alone = plan.config.cluster.model_copy(update={"workers": 1, "sharding": "none"})
    stages: list[tuple[Callable[[dict[str, str]], None], str, ClusterConfig]] = [
        (_first_on_worker, "autoencoder", alone),
        (_second_on_worker, "denoiser", plan.config.cluster),
    ]
    for work, name, cluster in stages:
        train_on_ray(
            work,
            {"output": str(plan.output)},
            name=f"{plan.config.name}-{name}",
            cluster=cluster,
            storage=plan.output,
        )
    return export(plan)


def _first_on_worker(settings: dict[str, str]) -> None:
    plan = ClassPlan.load(Path(settings["output"]))
    first_stage(plan, _reported(plan, "autoencoder"), device=this_worker("none").device)


def _second_on_worker(settings: dict[str, str]) -> None:
    plan = ClassPlan.load(Path(settings["output"]))
    second_stage(plan, this_worker(plan.config.cluster.sharding), _reported(plan, "denoiser"))


def _reported(plan: ClassPlan, name: str) -> Follow:
    log_dir = plan.output / "tensorboard" / name
    return lambda loop, **how: follow(loop, log_dir=log_dir, **how)


def first_stage(plan: ClassPlan, run: Follow, *, device: str = "cpu") -> None:
    """Train the autoencoder and cache what it makes of the images.

    Raises:
        ModelError: latents whose spread no noise schedule is made for.
    """
    config = plan.config
    pixels = load_pixels(plan.train)
    perceptual = feature_distance(config.autoencoder.perceptual)
    lesson = Lesson(
        images=pixels.images,
        seed=config.seed,
        turns=config.turns,
        perceptual=perceptual.to(device) if perceptual else None,
        depends_on={"autoencoder_id": plan.autoencoder_id},
        device=device,
    )
    autoencoder = train_first_stage(config.autoencoder, lesson, plan.autoencoder, follow=run)
    for part in (pixels, *([load_pixels(plan.held_out)] if plan.held_out else [])):
        folder = plan.latents(part.digest)
        if not folder.exists():
            save_material(_encoded(autoencoder, part, turns=config.turns), folder)
    latents = load_material(plan.latents(pixels.digest)).latents
    check_latent_scale(latents * autoencoder.config.scaling_factor)


def second_stage(plan: ClassPlan, workers: Workers, run: Follow) -> None:
    """Train the denoiser to its end and leave its weights in the output folder."""
    config = plan.config
    autoencoder = load_first_stage(plan.autoencoder).requires_grad_(False).to(workers.device)
    text = text_parts(plan)
    material = _material(plan, load_pixels(plan.train), autoencoder, text)
    training = class_training(network_of(plan, autoencoder, text), config, workers)
    loop = class_loop(
        training,
        material,
        depends_on={
            "autoencoder_id": plan.autoencoder_id,
            "split_digest": material.pixels.split_digest,
            "pixels": material.pixels.digest,
        },
        checkpoints=plan.checkpoints,
    )
    validation = _validation(plan, training, loop, autoencoder, text)
    run(loop, validate=validation, validate_every=config.validation.every_steps)
    if config.validation.best_by is not None:
        loop.restore_best()
    grid = validation.finish()
    module = inner(training.model)
    averaged = loop.ema.applied(module) if config.training.ema_decay else nullcontext()
    with averaged:  # on every worker: shards are gathered
        tensors = {n: whole(v).detach().cpu().clone() for n, v in module.state_dict().items()}
    if workers.first:
        Result(step=loop.step, metrics=loop.metrics, grid=grid).save(plan.output)
        write_bytes(plan.output / WEIGHTS, save(tensors, metadata={"step": str(loop.step)}))


def _validation(
    plan: ClassPlan, training: ClassTraining, loop: Loop, autoencoder: AutoencoderKL, text: Text
) -> Validation:
    settings, train = plan.config.validation, load_pixels(plan.train)
    held_out, distance = None, None
    if plan.config.unet.conditioning == "concat":  # which masks to draw from is nobody's to choose
        settings = settings.model_copy(update={"draw_every": None})
    if plan.held_out is not None:
        pixels = load_pixels(plan.held_out)
        held_out = _material(plan, pixels, autoencoder, text)
        if settings.features is not None:
            distance = _distance(pixels, settings, training.workers.device)

    def losses() -> dict[str, float]:
        if held_out is None:
            return {}
        return training.validate(held_out, max_images=settings.max_images)

    return Validation(
        loop=loop,
        settings=settings,
        losses=losses,
        sample=class_samples(training, autoencoder, text[0] if text else None),
        class_names=plan.class_names,
        folder=plan.output / "samples",
        distance=distance,
        gates=measured(train.images, train.labels).thresholds,
    )


def _distance(pixels: Pixels, settings: ValidationConfig, device: str) -> Distance | None:
    if settings.features is None or len(pixels.ids) < FEWEST:
        return None
    space = load_feature_space(settings.features, device=device)
    drawn = spread(pixels.labels, max(FEWEST, settings.max_images))
    return Distance(
        space=space,
        features=space.extract(pixels.images.numpy()),
        labels=tuple(pixels.labels[place] for place in drawn),
    )


def export(plan: ClassPlan) -> Generator:
    """Write `output/generator` from the finished stages and return it."""
    config, pixels, result = plan.config, load_pixels(plan.train), Result.load(plan.output)
    autoencoder, text = load_first_stage(plan.autoencoder), text_parts(plan)
    network = network_of(plan, autoencoder, text)
    network.load_state_dict(load_file(plan.output / WEIGHTS))
    manifest: dict[str, Any] = {
        "name": config.name,
        "method": "class_conditional",
        "size_px": config.size_px,
        "class_names": list(plan.class_names),
        "prompts": {name: config.prompt_of(name) for name in plan.class_names},
        "split_digest": pixels.split_digest,
        "dataset_fingerprint": pixels.dataset_fingerprint,
        "base_model_id": None,
        "autoencoder_base": config.autoencoder.base,
        "licence": "unknown",
        "config": config.model_dump(mode="json"),
        "images_trained": len(pixels.ids),
        "gates": measured(pixels.images, pixels.labels).model_dump(mode="json"),
        "field": plan.field.model_dump(mode="json"),
        "steps_trained": result.step,
        "validation": {"all": {"step": result.step, **result.metrics}},
    }
    pictures = {SHEET: result.grid.read_bytes()} if result.grid else {}
    card = class_card(manifest, validation_figures(manifest["validation"], [*pictures]))
    parts = {"unet": network.unet, "vae": autoencoder, "scheduler": noise_scheduler(config.noise)}
    if text is not None:
        parts |= {"tokenizer": text[0], "text_encoder": network.text_encoder}
    return write_generator(
        plan.output / "generator", parts=parts, manifest=manifest, card=card, pictures=pictures
    )


def text_parts(plan: ClassPlan) -> Text:
    """Return a tokenizer of the classes' texts and an untrained encoder, where texts are read."""
    config = plan.config
    if config.unet.conditioning != "text":
        return None
    tokenizer = prompt_tokenizer([config.prompt_of(name) for name in plan.class_names])
    torch.manual_seed(config.seed + 2)  # noqa: TID251 -- initial weights have no generator argument
    return tokenizer, small_text_encoder(tokenizer, width=config.unet.context_dim)


def network_of(
    plan: ClassPlan,
    autoencoder: AutoencoderKL,
    text: Text,
) -> ClassConditioned:
    """Return the untrained denoiser of a plan."""
    return build_network(
        plan.config,
        plan.class_names,
        latent_channels=autoencoder.config.latent_channels,
        text_encoder=text[1] if text else None,
        mask_values=plan.mask_values,
    )


def _material(
    plan: ClassPlan,
    pixels: Pixels,
    autoencoder: AutoencoderKL,
    text: Text,
) -> ClassMaterial:
    cached = plan.config.latents == "cached"
    tokens: Tensor | None = None
    if text is not None:
        tokens = tokenize(text[0], [plan.config.prompt_of(name) for name in plan.class_names])
    return class_material(
        pixels,
        plan.class_names,
        autoencoder,
        latents=load_material(plan.latents(pixels.digest)).latents if cached else None,
        tokens=tokens,
        mask_values=plan.mask_values,
        turns=plan.config.turns,
    )


def _encoded(autoencoder: AutoencoderKL, pixels: Pixels, *, turns: bool) -> Material:
    return Material(
        latents=encode(autoencoder, pixels, turns=turns),
        ids=pixels.ids,
        labels=pixels.labels,
        dataset_fingerprint=pixels.dataset_fingerprint,
        split_digest=pixels.split_digest,
    )
