r"""Judge a base generator against real cells that it never saw.

    python jobs/judge_base.py --generator wbc-base --data DATASET --split split.json \
        --features efficientnet_lite0.safetensors --out judged
    for g in 1 1.5 2 3; do python jobs/judge_base.py ... --cache judged/cache --per-class 25 \
        --per-value 0 --guidance-scale $g --out judged/guidance-$g; done

--out shows real cells: keep it where the data is. What the cache holds is not computed again.
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE, FOLDER, column_options


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--generator", "name", default="wbc-base", metavar="NAME|FOLDER")
@click.option("--data", required=True, metavar="URI", help="The real images of its training.")
@column_options
@click.option("--split", required=True, type=FILE, help="The split of its training.")
@click.option("--features", required=True, type=FILE, help="efficientnet_lite0 as safetensors.")
@click.option("--out", required=True, type=FOLDER)
@click.option("--cache", type=FOLDER, help="Default: cache in --out; share it between settings.")
@click.option("--per-class", default=100, type=click.IntRange(min=4))
@click.option("--per-value", default=50, type=click.IntRange(min=0), help="0: no attributes.")
@click.option("--guidance-scale", default=2.0, type=click.FloatRange(min=0))
@click.option("--num-inference-steps", default=20, type=click.IntRange(min=1))
@click.option("--scheduler", default="dpmpp_2m")
@click.option("--seed", default=0, type=click.IntRange(min=0))
def main(
    name: str,
    data: str,
    split: Path,
    features: Path,
    out: Path,
    cache: Path | None,
    per_class: int,
    per_value: int,
    guidance_scale: float,
    num_inference_steps: int,
    scheduler: str,
    seed: int,
    **columns: Any,
) -> None:
    """Draw cells, judge them, and write report.md, report.json and contact sheets."""
    from factory.evaluate.drawing import Settings
    from factory.evaluate.judge_base import Counts, judge_base
    from factory.evaluate.reference import open_reference
    from factory.models.generator import find_generator
    from factory.sample.engine import Engine

    counts = Counts(per_class=per_class, per_value=per_value)
    settings = Settings(
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        scheduler=scheduler,
        seed=seed,
    )

    def tell(done: int, of: int) -> None:
        click.echo(f"drawn: batch {done} of {of}", err=True)

    generator, cache = find_generator(name), cache or out / "cache"
    reference = open_reference(
        generator, data, split=split, weights=features, cache=cache, **columns
    )
    judge_base(Engine(generator), reference, settings, counts, out=out, report=tell)
    click.echo((out / "report.md").read_text())


if __name__ == "__main__":
    run(main)
