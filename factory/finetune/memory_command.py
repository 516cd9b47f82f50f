"""`factory memory`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from factory.terminal import say

if TYPE_CHECKING:
    from factory.finetune.config import FinetuneConfig
    from factory.models.generator import Generator

_ROW = "{:>7}  {:8}  {:>13}  {:>6}  {:>7}  {:>9}  {:>6}  {:>7}  {:>11}  {:>8}  {:>6}"
_TERMS = ("total", "weights", "gradients", "AdamW", "average", "activations", "gathered", "saving")


@click.command()
@click.option("--config", "source", metavar="FILE|PRESET", help="Default: as `factory finetune`.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--workers", multiple=True, type=click.IntRange(1), default=(1, 2, 8))
def memory(source: str | None, overrides: tuple[str, ...], workers: tuple[int, ...]) -> None:
    """Print what each worker of a fine-tuning would hold in memory, in GiB.

    For 1, 2 and 8 workers, copied or sharded, with and without gradient checkpointing, by
    arithmetic: nothing is allocated or trained. The base may be a folder with nothing but the
    config.json of unet, text_encoder and vae.

    \b
    factory memory --set base=stable-diffusion-v1-5 --set train=full --set training.batch_size=8
    """  # noqa: D301 -- \b is click's mark
    from factory.errors import ConfigError
    from factory.finetune.config import FinetuneConfig
    from factory.finetune.methods import load_training, preset_for

    _, config = load_training(source or preset_for(overrides), overrides)
    if not isinstance(config, FinetuneConfig):
        raise ConfigError(
            f"the memory of method {config.method!r} cannot be told",
            remedy="Give a configuration of method text",
        )
    for line in table(config, described(config), workers=workers):
        say(line)


def table(config: "FinetuneConfig", base: "Generator", *, workers: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the table: every number of workers, sharding and checkpointing."""
    from factory.finetune.memory import needs_of

    training = config.training
    yield (
        f"{base.name}, train: {config.train}, {training.batch_size} images of"
        f" {config.size_px or base.size_px} px a step, {training.precision}; GiB on each worker"
    )
    yield _ROW.format("workers", "sharding", "checkpointing", *_TERMS)
    for checkpointing in (False, True):
        changed = training.model_copy(update={"gradient_checkpointing": checkpointing})
        asked = config.model_copy(update={"training": changed})
        for count in workers:
            copied = "none" if count == 1 else "ddp"
            held = needs_of(asked, base, workers=count, shardings=("ddp", "fsdp"))
            for sharding, each in zip((copied, "fsdp"), held, strict=True):
                sizes = (
                    f"{size / 2**30:.2f}"
                    for size in (
                        each.total,
                        each.weights,
                        each.gradients,
                        each.moments,
                        each.average,
                        each.activations,
                        each.gathered,
                        each.saving,
                    )
                )
                yield _ROW.format(count, sharding, "yes" if checkpointing else "no", *sizes)


def described(config: "FinetuneConfig") -> "Generator":
    """Return the base; of a folder without weights, what its configurations say.

    Raises:
        ModelError: neither a generator nor a folder with a U-Net's configuration.
    """
    from factory.models.folder import INDEX, read_manifest
    from factory.models.generator import Generator, find_generator

    folder = Path(config.base).expanduser()
    if (folder / INDEX).is_file() or not (folder / "unet" / "config.json").is_file():
        return find_generator(config.base, revision=config.revision)
    return Generator(
        name=config.base, folder=folder, model_id="none", manifest=read_manifest(folder)
    )
