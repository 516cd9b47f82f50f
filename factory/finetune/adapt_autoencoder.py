"""Adapts the autoencoder of a base to new images: what it cannot show, no denoiser can draw.

An autoencoder that knows one stain paints every other in its colours. On 240 unseen histology tiles
(crc_torino, 64 px) that of wbc-base reaches 20.3 dB and a KID of 0.188 to real tiles (floor -0.001,
efficientnet_lite0); after 800 steps on 720 others 24.0 dB and 0.055.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from factory.digest import digest, digest_bytes
from factory.finetune.class_config import FirstStageConfig
from factory.finetune.config import AutoencoderAdaptation, FinetuneConfig
from factory.finetune.first_stage import Lesson, train_first_stage
from factory.finetune.losses import feature_distance
from factory.finetune.plan import choose_images
from factory.finetune.stages import check_seal, seal
from factory.finetune.train import follow_here
from factory.models.card import adapted_licence, finetuned_card
from factory.models.export import write_generator
from factory.models.generator import Generator, find_generator, open_generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.splits import Split

PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")


def with_adapted_autoencoder(
    config: FinetuneConfig,
    dataset: RealDataset,
    split: Split,
    *,
    output: Path,
    tell: Callable[[str], object],
) -> FinetuneConfig:
    """Return `config` with the base that `adapt_autoencoder` makes; itself, for 0 steps.

    An autoencoder of patches stays as it is: it has no network, and shows every stain (37 dB of
    wbc_seg1 and 30 dB of crc_torino in the components of other cells, docs/studies/base.md).

    Raises:
        DataError: see `choose_images`.
        ModelError: see `adapt_autoencoder`.
    """
    if not config.autoencoder.steps:
        return config
    base = find_generator(config.base, revision=config.revision)
    if PatchAutoencoder.is_in(base.folder / "vae"):
        tell(f"autoencoder: that of {base.name} is of patches and needs no adapting")
        return config.model_copy(update={"autoencoder": AutoencoderAdaptation()})
    adapted = adapt_autoencoder(
        base,
        dataset,
        split,
        choose_images(dataset, split, config),
        config.autoencoder,
        size_px=config.size_px or base.size_px,
        turns=config.turns,
        seed=config.seed,
        output=output,
        tell=tell,
    )
    return config.model_copy(
        update={
            "base": str(adapted.folder),
            "revision": None,
            "autoencoder": AutoencoderAdaptation(),
        }
    )


def adapt_autoencoder(
    base: Generator,
    dataset: RealDataset,
    split: Split,
    ids: Sequence[str],
    settings: AutoencoderAdaptation,
    *,
    size_px: int,
    turns: bool,
    seed: int,
    output: Path,
    tell: Callable[[str], object],
) -> Generator:
    """Return `base` with its autoencoder trained on `ids`, those of the fine-tuning to come.

    Its scaling factor is measured anew. U-Net and text encoder stay as they were and do not fit its
    latents yet: a fine-tuning begins here. What is there already is kept.

    Args:
        base: whose autoencoder is the start; neither it nor its files change.
        dataset: the real images.
        split: of `dataset`.
        ids: of the images to train on, of its train part.
        settings: length, rates, terms.
        size_px: side of the images.
        turns: show images under flips and quarter turns.
        seed: of order and noise.
        output: holds the result, named by all that it depends on, and the checkpoints of a run
            that was cut off.
        tell: is told how it goes.

    Raises:
        ModelError: the base cannot be loaded, or the loss is no number any more.
    """
    weights = settings.perceptual
    told = {
        "settings": settings.model_dump(mode="json", exclude={"perceptual"}),
        "perceptual": digest_bytes(weights.read_bytes()) if weights else None,
        "base_model_id": base.model_id,
        "split_digest": split.digest,
        "ids_digest": digest(list(ids)),
        "size_px": size_px,
        "turns": turns,
        "seed": seed,
    }
    name = digest(told)
    folder = output / f"base-{name}"
    if folder.is_dir():
        check_seal(folder)
        return open_generator(folder)
    images = torch.from_numpy(dataset.array(size_px, ids))
    autoencoder = train_first_stage(
        FirstStageConfig(base=str(base.folder), **settings.model_dump()),
        Lesson(
            images=images,
            seed=seed,
            turns=turns,
            perceptual=feature_distance(weights),
            depends_on=told,
        ),
        output / f"autoencoder-{name}",
        follow=lambda loop: follow_here(loop, tell=lambda line: tell(f"autoencoder: {line}")),
    )
    manifest = {
        "name": f"{base.manifest.get('name', 'base')}-autoencoder",
        "method": base.method,
        "size_px": size_px,
        "class_names": list(base.class_names),
        "prompts": dict(base.prompts),
        "split_digest": split.digest,
        "dataset_fingerprint": dataset.fingerprint,
        "base": base.manifest.get("name", "unknown"),
        "base_model_id": base.model_id,
        "licence": adapted_licence(base.manifest),
        "config": told,
        "images_trained": len(images),
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
