r"""Judge the autoencoder of a generator by a round trip of real images that it never saw.

    python jobs/judge_autoencoder.py --generator wbc-base --data DATASET --split split.json \
        --features efficientnet_lite0.safetensors --out judged

--generator may also be a folder that holds an autoencoder alone. Nothing of the real images is
written but the features that --out caches.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE, FOLDER, column_options, opened


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--generator", "name", default="wbc-base", metavar="NAME|FOLDER")
@click.option("--data", required=True, metavar="URI", help="The real images of its training.")
@column_options
@click.option("--split", "source", required=True, type=FILE, help="The split of its training.")
@click.option("--features", required=True, type=FILE, help="efficientnet_lite0 as safetensors.")
@click.option("--out", required=True, type=FOLDER)
@click.option("--size-px", default=64, type=click.IntRange(min=8))
@click.option("--per-class", default=160, type=click.IntRange(min=2), help="Of the train part.")
@click.option("--unseen", default=80, type=click.IntRange(min=2), help="A class, of the val part.")
def main(
    name: str,
    data: str,
    source: Path,
    features: Path,
    out: Path,
    size_px: int,
    per_class: int,
    unseen: int,
    **columns: Any,
) -> None:
    """Measure, and write report.md and report.json."""
    from factory.atomic import write_text
    from factory.evaluate.judge_autoencoder import judge_autoencoder, take_balanced, to_markdown
    from factory.finetune.first_stage import autoencoder_of, load_first_stage
    from factory.measure.cache import ArrayCache
    from factory.measure.features import load_feature_space
    from factory.models.generator import find_generator
    from factory.real.field import scale_line
    from factory.real.splits import load_split

    alone = (Path(name) / "diffusion_pytorch_model.safetensors").exists()
    autoencoder = load_first_stage(Path(name)) if alone else autoencoder_of(name, None)
    dataset, split = opened(data, columns), load_split(source)
    report = judge_autoencoder(
        autoencoder.float(),
        take_balanced(dataset, split.train, per_class, size_px=size_px),
        take_balanced(dataset, split.val, unseen, size_px=size_px),
        load_feature_space(features),
        cache=ArrayCache(folder=out / "cache"),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    write_text(out / "report.md", to_markdown(report))
    click.echo(to_markdown(report))
    real = dataset.look(size_px, split.val)
    if not alone and (line := scale_line(real, find_generator(name).learnt())):
        click.echo(line)


if __name__ == "__main__":
    run(main)
