"""The ends of a pre-training: real images in, a generator folder with its card out."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from factory.errors import ModelError
from factory.finetune.base_config import BaseConfig
from factory.finetune.cluster import ClusterConfig
from factory.finetune.losses import feature_distance
from factory.finetune.material import measured
from factory.finetune.meter import Progress, describe
from factory.finetune.pretrain import (
    build_denoiser,
    denoiser_loop,
    latents_of,
    load_data,
    load_field,
    prepare_data,
    train_autoencoder,
    training_scheduler,
)
from factory.finetune.train import REPORT_STEPS, follow, this_worker, train_on_ray
from factory.models.card import base_card
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.real.duplicates import grouped
from factory.real.sources import open_dataset
from factory.real.splits import load_split, make_split, verify_split
from factory.terminal import tell_driver

SPLIT = "split.json"


def prepare_base(config: BaseConfig, uri: str, output: Path) -> None:
    """Split the real images once, and write the train part where the workers find it.

    Raises:
        DataError: unreadable images, or a split in `output` that is not of this dataset.
    """
    dataset = open_dataset(uri, label=config.label, attributes=config.attributes)
    groups = grouped(dataset)
    path = output / SPLIT
    if path.exists():
        split = load_split(path)
    else:
        split = make_split(
            dataset=dataset.fingerprint,
            ids=dataset.ids,
            labels=dataset.labels,
            groups=groups,
            fractions=config.fractions,
            seed=config.seed,
        )
        split.save(path)
    verify_split(split, dataset=dataset.fingerprint, ids=dataset.ids, groups=groups)
    prepare_data(dataset, split, config, output)


def train_here(
    config: BaseConfig,
    output: Path,
    *,
    perceptual_weights: Path | None,
    report: Callable[[str], object],
) -> None:
    """Run both stages in this process, telling `report` a line now and then."""
    data = load_data(output)

    def tell(progress: Progress) -> None:
        if progress.step % REPORT_STEPS == 0:
            report(describe(progress))

    perceptual = feature_distance(perceptual_weights)
    autoencoder = train_autoencoder(data, config, output, perceptual=perceptual, report=tell)
    latents = latents_of(autoencoder, data, config, output)
    model, tokenizer = build_denoiser(data, config, autoencoder)
    for progress in denoiser_loop(model, tokenizer, latents, data, config, output).run():
        tell(progress)


def pretrain_on_ray(
    config: BaseConfig,
    output: Path,
    *,
    workers: int,
    use_gpu: bool,
    perceptual_weights: Path | None,
) -> None:
    """Run both stages on Ray Train; `output` must be storage that every worker sees.

    Raises:
        ClusterError: the group failed more often than it may.
    """
    settings = {
        "config": config.model_dump_json(),
        "output": str(output),
        "perceptual_weights": str(perceptual_weights or ""),
    }
    for stage, count in ((_autoencoder_stage, 1), (_denoiser_stage, workers)):
        train_on_ray(
            stage,
            settings,
            name=f"{config.name}-{stage.__name__.strip('_')}",
            cluster=ClusterConfig(
                workers=count, use_gpu=use_gpu, sharding="ddp" if count > 1 else "none"
            ),
            storage=output,
        )


def _autoencoder_stage(settings: dict[str, str]) -> None:
    config, output = _settings(settings)
    data = load_data(output)
    weights = settings["perceptual_weights"]
    autoencoder = train_autoencoder(
        data,
        config,
        output,
        perceptual=feature_distance(Path(weights) if weights else None),
        report=_tell,
    )
    latents_of(autoencoder, data, config, output)  # so that the workers of the next stage only read


def _denoiser_stage(settings: dict[str, str]) -> None:
    config, output = _settings(settings)
    data = load_data(output)
    autoencoder = train_autoencoder(data, config, output, perceptual=None, report=_tell)
    latents = latents_of(autoencoder, data, config, output)
    model, tokenizer = build_denoiser(data, config, autoencoder)
    workers = this_worker("ddp")
    loop = denoiser_loop(model, tokenizer, latents, data, config, output, workers)
    follow(loop, log_dir=output / "tensorboard")


def _settings(settings: dict[str, str]) -> tuple[BaseConfig, Path]:
    return BaseConfig.model_validate(json.loads(settings["config"])), Path(settings["output"])


def _tell(progress: Progress) -> None:
    if progress.step % REPORT_STEPS == 0:
        tell_driver(describe(progress))


def export_base(config: BaseConfig, output: Path, folder: Path) -> Generator:
    """Write the newest checkpoint below `output` as a generator: EMA weights in half precision.

    Raises:
        ModelError: there is no checkpoint yet.
    """
    data, split = load_data(output), load_split(output / SPLIT)
    autoencoder = train_autoencoder(data, config, output, perceptual=None, report=lambda _: None)
    latents = latents_of(autoencoder, data, config, output)
    model, tokenizer = build_denoiser(data, config, autoencoder)
    loop = denoiser_loop(model, tokenizer, latents, data, config, output)
    step = loop.resume()
    if step == 0:
        raise ModelError(f"{output} holds no checkpoint", remedy="Train first")
    manifest = {
        "name": config.name,
        "method": "text",
        "size_px": config.size_px,
        "class_names": sorted(set(data.labels)),
        "prompts": {name: config.prompt.compose(name) for name in sorted(set(data.labels))},
        "split_digest": split.digest,
        "dataset_fingerprint": split.dataset,
        "base_model_id": None,
        "licence": config.licence,
        "config": config.model_dump(mode="json"),
        "steps_trained": step,
        "images_trained": len(data.images),
        "gates": measured(data.images, data.labels).model_dump(mode="json"),
        "field": load_field(output).model_dump(mode="json"),
    }
    with loop.ema.applied(model):
        return write_generator(
            folder,
            parts={
                "unet": model.unet,
                "vae": autoencoder,
                "text_encoder": model.text_encoder,
                "tokenizer": tokenizer,
                "scheduler": training_scheduler(config.noise),
            },
            manifest=manifest,
            card=base_card(manifest),
            dtype=torch.float16,
        )
