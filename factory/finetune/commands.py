"""`factory finetune`."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.command_line import goes_on, tell_next
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

if TYPE_CHECKING:
    from factory.models.generator import Generator


@click.command()
@click.option("--config", "source", metavar="FILE|PRESET", help="Default: what fits the base.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--class", "only", multiple=True, metavar="NAME", help="Train only these classes.")
@click.option("--without", multiple=True, metavar="CLASS", help="Leave these classes out.")
@click.option("--output", required=True, type=FOLDER, help="Storage that every worker sees.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
def finetune(
    source: str | None,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    only: tuple[str, ...],
    without: tuple[str, ...],
    output: Path,
    address: str | None,
    without_ray: bool,
    **columns: Any,
) -> None:
    """Train a generator on real images; it is written to OUTPUT/generator.

    The configuration's `method` says how: 'text' adapts a base that reads prompts (CytoDiff),
    'class_conditional' trains autoencoder and denoiser from scratch (BlastDiffusion), 'pairs'
    images together with their masks. Name the columns of --data as for its split. Without --config
    a small base such as wbc-base takes cytodiff_small, Stable Diffusion cytodiff.

    The same command goes on where a killed one stopped.

    \b
    factory real split cells --out split.json
    factory finetune --data cells --split split.json --output runs/mine
    factory finetune --config blastdiffusion_small --data cells --split split.json --output ...
    factory generate --set model=runs/mine/generator --num-images 64
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.finetune.cluster import check_gpus, check_room
    from factory.finetune.methods import (
        about_scale,
        check_bases,
        check_training,
        load_training,
        preset_for,
    )
    from factory.finetune.plan import thin_classes, without_classes
    from factory.finetune.stages import claimed
    from factory.real.splits import load_split
    from factory.sample.session import check_address, ray_session

    source = source or preset_for(overrides, tell=say)
    method, config = load_training(source, overrides)
    if only:
        config = config.model_copy(update={"only": only})
    check_bases(config, source)
    parts, place = load_split(split), output.resolve()
    check_writable(place)
    if not without_ray:
        check_address(address)
    dataset = opened(data, columns)
    config = without_classes(config, dataset, without)
    check_training(config, dataset, parts)
    for line in (*thin_classes(dataset, parts, config), *about_scale(config, dataset, parts)):
        say(line)
    if config.cluster.use_gpu:  # before images are encoded
        with ray_session(address) if address and not without_ray else nullcontext():
            check_gpus(config.cluster)
    training = method.training()
    with claimed(place, config.method), goes_on("the checkpoints stay"):
        plan = training.prepare(config, dataset, parts, place, tell=say)
        if line := training.needs(plan):
            say(line)
        if without_ray:
            generator = training.here(plan, tell=say)
        else:
            with ray_session(address, show_workers=True, tell=say):
                if not address:
                    check_room(config.cluster)
                generator = training.on_ray(plan)
    _tell_end(generator, place, output)


def _tell_end(generator: "Generator", place: Path, output: Path) -> None:
    """Say what was made, what its curves advise, where samples are and what comes next."""
    from factory.finetune.validation import CURVE, advice, read_curve

    folder = output / generator.folder.relative_to(place)  # as it was typed
    say(f"{generator.name} {generator.model_id} in {folder}")
    for path in sorted(place.rglob(CURVE)):
        own = path.parent.name if path.parent != place else ""
        for line in advice(read_curve(path)):
            say(f"{own}: {line}" if own else line)
    if (sheet := folder / "samples.png").exists():
        say(f"sheet    {sheet}")
    tell_next("generate", *_drawn_with(generator, folder), "--num-images", 64)


def _drawn_with(generator: "Generator", folder: Path) -> Iterator[str]:
    """Yield the options by which `factory generate` draws with a generator."""
    keys = [f"model={folder}"]
    if generator.method == "pairs":
        keys += ["num_inference_steps=50"]
        keys += ["guidance_scale=1"] if generator.manifest["condition"] == "none" else []
    for key in keys:
        yield from ("--set", key)
