"""Judge a bridge run: what an expert sees along its progressions, and whether images come back.

python jobs/judge_bridge.py RUN_ID --catalog bridges --expert expert --out judged
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FOLDER


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("run_id")
@click.option("--catalog", "uri", required=True, metavar="URI")
@click.option("--expert", "folder", required=True, type=FOLDER, help="Knows both domains.")
@click.option("--part", default="test", type=click.Choice(["val", "test"]), help="Real images.")
@click.option("--steps", multiple=True, default=(10, 25, 50, 100), type=click.IntRange(min=1))
@click.option("--corrections", multiple=True, default=(0,), type=click.IntRange(min=0))
@click.option("--num-images", default=32, type=click.IntRange(min=2), help="Of the round trips.")
@click.option("--out", required=True, type=FOLDER)
def main(
    run_id: str,
    uri: str,
    folder: Path,
    part: str,
    steps: tuple[int, ...],
    corrections: tuple[int, ...],
    num_images: int,
    out: Path,
) -> None:
    """Measure, and write report.md and report.json. Model, data and split are those of the run."""
    from catalog.table import Catalog
    from factory.atomic import write_text
    from factory.evaluate.bridge_report import to_markdown
    from factory.evaluate.judge_bridge import judge_bridge
    from factory.models.expert_file import load_expert
    from factory.models.generator import find_generator
    from factory.real.sources import open_dataset
    from factory.real.splits import load_split

    catalog = Catalog(uri)
    told = json.loads(str(catalog.run(run_id)["config"]))
    report = judge_bridge(
        catalog,
        run_id,
        find_generator(told["model"]),
        load_expert(folder),
        open_dataset(told["data"]),
        load_split(Path(told["split"])),
        part=part,
        steps=steps,
        corrections=corrections,
        num_images=num_images,
        labels=told["options"].get("labels"),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    write_text(out / "report.md", to_markdown(report))
    click.echo(to_markdown(report))


if __name__ == "__main__":
    run(main)
