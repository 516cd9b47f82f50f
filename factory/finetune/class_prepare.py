"""Before a class-conditional training: everything that could be wrong with it is said now."""

from pathlib import Path

import torch

from factory.digest import digest, digest_bytes
from factory.errors import ConfigError
from factory.finetune.class_conditional import build_network
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.class_material import values_of
from factory.finetune.class_plan import ClassPlan
from factory.finetune.first_stage import autoencoder_of
from factory.finetune.losses import feature_distance
from factory.finetune.pixels import Pixels, save_pixels, take_pixels
from factory.finetune.plan import choose_images
from factory.models.autoencoder import small_autoencoder
from factory.models.conditioning import prompt_tokenizer
from factory.models.generator import find_generator
from factory.models.prompts import Reader
from factory.real.dataset import RealDataset
from factory.real.splits import Split


def prepare(
    config: ClassConditionalConfig, dataset: RealDataset, split: Split, output: Path
) -> ClassPlan:
    """Choose the images, write them where every worker finds them, and say what will be trained.

    Raises:
        DataError: a split of another dataset or one that divides a group, a class without images,
            fewer than `n_shot`, images without the masks that are asked for.
        ConfigError: prompts for classes that the dataset has not, or widths that do not fit.
        ModelError: the autoencoder's base or the perceptual weights cannot be loaded.
    """
    if unknown := sorted({*config.classes, *config.only} - set(dataset.labels)):
        raise ConfigError(
            f"class {unknown[0]!r} is not in the dataset",
            remedy=f"Its classes are {', '.join(sorted(set(dataset.labels)))}",
        )
    ids = choose_images(dataset, split, config)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    class_names = tuple(sorted({labels[i] for i in ids}))
    _check_networks(config, class_names)
    masks = config.unet.conditioning == "concat"

    def written(chosen: tuple[str, ...]) -> tuple[Pixels, Path]:
        pixels = take_pixels(dataset, chosen, split, size_px=config.size_px, masks=masks)
        path = output / f"pixels-{pixels.digest}.safetensors"
        if not path.exists():
            save_pixels(pixels, path)
        return pixels, path

    pixels, train = written(ids)
    held_out = tuple(i for i in split.val if labels[i] in class_names)
    plan = ClassPlan(
        config=config,
        class_names=class_names,
        train=train,
        held_out=written(held_out)[1] if held_out else None,
        mask_values=values_of(pixels.masks) if pixels.masks is not None else (),
        autoencoder_id=_autoencoder_id(config, pixels),
        field=dataset.shown(config.size_px, ids),
        output=output,
    )
    plan.save()
    return plan


def _check_networks(config: ClassConditionalConfig, class_names: tuple[str, ...]) -> None:
    """Build both networks without memory, and the latents' way through them on paper."""
    stage = config.autoencoder
    feature_distance(stage.perceptual)
    levels, channels = len(stage.channels), stage.latent_channels
    if stage.base is None:
        with torch.device("meta"):
            small_autoencoder(channels=stage.channels, layers_per_block=stage.layers_per_block)
    else:
        stored = autoencoder_of(stage.base, stage.revision).config
        levels, channels = len(stored.block_out_channels), stored.latent_channels
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


def _autoencoder_id(config: ClassConditionalConfig, pixels: Pixels) -> str:
    stage = config.autoencoder
    base = find_generator(stage.base, revision=stage.revision).model_id if stage.base else None
    weights = digest_bytes(stage.perceptual.read_bytes()) if stage.perceptual else None
    knobs = stage.model_dump(mode="json", exclude={"base", "revision", "perceptual"})
    return digest([knobs, base, weights, pixels.digest, config.turns, config.seed])
