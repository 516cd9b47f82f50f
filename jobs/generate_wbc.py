"""Draw white blood cells into a catalog; what `ray job submit` runs.

python jobs/generate_wbc.py --catalog wbc-catalog --num-images 320
ray job submit --working-dir . -- python jobs/generate_wbc.py --catalog s3://lab/wbc
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from catalog.commands import catalog_option, parse_place, storage_option
from factory.cli import run as run_command
from factory.sample.session import ray_session, start_run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "source", default="wbc", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@catalog_option
@storage_option
@click.option("--num-images", type=click.IntRange(min=1), help="How many images to draw.")
@click.option("--resume", "run_id", metavar="RUN_ID", help="Go on with a run of this catalog.")
def main(
    source: str,
    overrides: tuple[str, ...],
    uri: str,
    storage: tuple[str, ...],
    num_images: int | None,
    run_id: str | None,
) -> None:
    """Draw white blood cells into a catalog."""
    run = start_run(
        source=source,
        overrides=overrides,
        num_images=num_images,
        run_id=run_id,
        place=parse_place(uri, storage),
    )
    from factory.sample.console import follow

    with ray_session():
        follow(run)


if __name__ == "__main__":
    run_command(main)
