"""Judge drawn pairs by a segmenter that neither the generator nor the gate learnt from.

python jobs/judge_pairs.py --catalog pairs --where "run_id = 'run-...'" --segmenter judge \
--data polyps --split split.json
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import column_options, opened


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--catalog", "uri", required=True, metavar="URI")
@click.option("--where", default="true", metavar="SQL", help="Condition on samples.")
@click.option("--segmenter", required=True, metavar="FOLDER", help="See factory prepare segmenter.")
@click.option("--data", required=True, metavar="URI", help="The real images ...")
@column_options
@click.option("--split", "split_file", required=True, type=click.Path(path_type=Path))
@click.option("--part", default="held_out", type=click.Choice(["val", "test", "held_out"]))
def main(
    uri: str, where: str, segmenter: str, data: str, split_file: Path, part: str, **columns: Any
) -> None:
    """Print Dice by class of the accepted and of all drawn pairs, and of unseen real ones."""
    from catalog.table import Catalog
    from factory.evaluate.pair_agreement import (
        agreement,
        drawn_pairs,
        real_pairs,
        scale_of_pairs,
        table,
    )
    from factory.models.segmenter import load_segmenter
    from factory.real.splits import check_dataset, load_split

    judge, dataset, split = load_segmenter(segmenter), opened(data, columns), load_split(split_file)
    check_dataset(split, dataset.fingerprint)
    ids = split.val + split.test if part == "held_out" else getattr(split, part)
    catalog, values = Catalog(uri), judge.facts["mask_values"]
    accepted = f"({where}) AND gate_status = 'accepted'"
    sets = {
        "drawn, accepted": drawn_pairs(catalog, accepted),
        "drawn, all": drawn_pairs(catalog, where),
        f"real, {part}": real_pairs(dataset, ids, judge.size_px, values),
    }
    click.echo(
        table({k: agreement(judge, pairs, num_classes=len(values)) for k, pairs in sets.items()})
    )
    if line := scale_of_pairs(catalog, accepted, dataset, ids):
        click.echo(line)


if __name__ == "__main__":
    run(main)
