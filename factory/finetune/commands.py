"""`factory finetune`."""

from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--config", "source", default="cytodiff", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@click.option("--split", type=_FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--class", "only", multiple=True, metavar="NAME", help="Train only these classes.")
@click.option("--output", required=True, type=_FOLDER, help="Storage that every worker sees.")
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
) -> None:
    """Adapt a generator to real images; the new one is written to OUTPUT/generator.

    The same command goes on where a killed one stopped.

    \b
    factory real split cells --out split.json
    factory finetune --data cells --split split.json --output runs/mine
    factory generate --set model=runs/mine/generator --num-images 64
    """  # noqa: D301 -- \b is click's mark
    from factory.config import load_config
    from factory.finetune.config import FinetuneConfig
    from factory.finetune.run import finetune_here, finetune_on_ray, prepare
    from factory.real.sources import open_dataset
    from factory.real.splits import load_split
    from factory.sample.session import ray_session

    config = load_config(FinetuneConfig, source, overrides)
    if only:
        config = config.model_copy(update={"only": only})
    plan = prepare(config, open_dataset(data), load_split(split), output.resolve())
    if without_ray:
        generator = finetune_here(plan, tell=click.echo)
    else:
        with ray_session(address, show_workers=True):
            generator = finetune_on_ray(plan)
    click.echo(f"{generator.name} {generator.model_id} in {generator.folder}")
