"""`factory finetune`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say


@click.command()
@click.option("--config", "source", default="cytodiff", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--class", "only", multiple=True, metavar="NAME", help="Train only these classes.")
@click.option("--output", required=True, type=FOLDER, help="Storage that every worker sees.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
def finetune(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    only: tuple[str, ...],
    output: Path,
    address: str | None,
    without_ray: bool,
    **columns: Any,
) -> None:
    """Train a generator on real images; it is written to OUTPUT/generator.

    The configuration's `method` says how: 'text' adapts a base that reads prompts (CytoDiff),
    'class_conditional' trains autoencoder and denoiser from scratch (BlastDiffusion). Name the
    columns of --data as for its split.

    The same command goes on where a killed one stopped.

    \b
    factory real split cells --out split.json
    factory finetune --data cells --split split.json --output runs/mine
    factory finetune --config blastdiffusion_small --data cells --split split.json --output ...
    factory generate --set model=runs/mine/generator --num-images 64
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.finetune.cluster import check_gpus, check_room
    from factory.finetune.methods import check_bases, check_training, load_training
    from factory.real.splits import load_split
    from factory.sample.session import check_address, ray_session

    method, config = load_training(source, overrides)
    if only:
        config = config.model_copy(update={"only": only})
    check_bases(config, source)
    parts, place = load_split(split), output.resolve()
    check_writable(place)
    if not without_ray:
        check_address(address)
    dataset = opened(data, columns)
    check_training(config, dataset, parts)
    if config.cluster.use_gpu:  # before images are encoded
        with ray_session(address) if address and not without_ray else nullcontext():
            check_gpus(config.cluster)
    training = method.training()
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
    say(f"{generator.name} {generator.model_id} in {generator.folder}")
