"""Judge an adapted generator beside its base, on real images of the new domain unseen by both.

python jobs/judge_adapted.py --generator runs/mine/generator --data cells --split split.json \
        --part test --features efficientnet_lite0.safetensors --out judged
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE, column_options, opened


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--generator", "name", required=True, metavar="NAME|FOLDER", help="The adapted one.")
@click.option("--base", help="Default: the generator it was adapted from.")
@click.option("--data", required=True, metavar="URI", help="The real images of the adaptation.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE, help="Of these images.")
@click.option("--part", default="test", type=click.Choice(["val", "test", "held_out"]))
@click.option("--features", required=True, type=FILE, help="efficientnet_lite0 as safetensors.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--guidance-scale", default=2.0, type=click.FloatRange(min=0))
@click.option("--num-inference-steps", default=20, type=click.IntRange(min=1))
@click.option("--times", default=1, type=click.IntRange(min=1), help="Drawn per unseen image.")
@click.option("--seed", default=0, type=click.IntRange(min=0))
def main(
    name: str,
    base: str | None,
    data: str,
    split_file: Path,
    part: str,
    features: Path,
    out: Path,
    guidance_scale: float,
    num_inference_steps: int,
    times: int,
    seed: int,
    **columns: Any,
) -> None:
    """Draw with both, measure, and write report.json and contact sheets."""
    from factory.evaluate.drawing import Settings
    from factory.evaluate.judge_adapted import judge_adapted
    from factory.models.generator import find_generator
    from factory.real.splits import load_split

    generator = find_generator(name)
    report = judge_adapted(
        generator,
        find_generator(base) if base else generator.base(),
        opened(data, columns),
        load_split(split_file),
        part=part,
        features=features,
        settings=Settings(
            guidance_scale=guidance_scale, num_inference_steps=num_inference_steps, seed=seed
        ),
        times=times,
        out=out,
    )
    click.echo(json.dumps(asdict(report), indent=1))
    if report.scale:
        click.echo(report.scale, err=True)


if __name__ == "__main__":
    run(main)
