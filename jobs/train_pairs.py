"""Train a generator of image + mask pairs, or one for every cluster of them, side by side.

    python jobs/train_pairs.py --data DATASET --split split.json --output runs/polyps
    python jobs/train_pairs.py --set per_cluster=true --set clusters=clusters.safetensors ...
    ray job submit --working-dir . -- python jobs/train_pairs.py --config polyp_pairs ...

A killed run goes on where it was when it is started again with the same --output.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.errors import FactoryError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "source", default="polyp_pairs_train", metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images with masks.")
@click.option("--split", required=True, type=_FILE, help="Of these images: `factory real split`.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
def main(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    output: Path,
    address: str | None,
    without_ray: bool,
) -> None:
    """Train, then write a generator folder for every target."""
    from factory.config import load_config
    from factory.finetune.pairs_config import PairsConfig
    from factory.finetune.pairs_run import prepare, train_here, train_pairs_on_ray
    from factory.real.sources import open_dataset
    from factory.real.splits import load_split
    from factory.sample.session import ray_session

    try:
        config = load_config(PairsConfig, source, overrides)
        plan = prepare(config, open_dataset(data), load_split(split), output.resolve())
        if without_ray:
            made = train_here(plan, tell=click.echo)
        else:
            with ray_session(address, show_workers=True):
                made = train_pairs_on_ray(plan)
        for generator in made:
            click.echo(f"{generator.name} {generator.model_id} in {generator.folder}")
    except FactoryError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
