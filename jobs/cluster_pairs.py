"""Group the real pairs of a split's train part by what they look like.

python jobs/cluster_pairs.py --data DATA --split split.json --features WEIGHTS --out FILE -k 20
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, metavar="URI", help="Real images with masks.")
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--features", required=True, type=FILE, help="Weights of timm's EfficientNet-Lite0.")
@click.option("--out", required=True, type=FILE)
@click.option("-k", default=20, show_default=True, type=click.IntRange(1))
@click.option("--min-size", default=8, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def main(
    data: str, split_file: Path, features: Path, out: Path, k: int, min_size: int, seed: int
) -> None:
    """Write a file of clusters and tell their sizes."""
    from factory.evaluate.features import load_feature_space
    from factory.real.clusters import make_clusters
    from factory.real.sources import open_dataset
    from factory.real.splits import load_split

    space = load_feature_space(features)
    clusters = make_clusters(
        open_dataset(data),
        load_split(split_file),
        space.extract,
        extractor=f"{space.name} {space.digest}",
        k=k,
        min_size=min_size,
        seed=seed,
    )
    clusters.save(out)
    sizes = {number: len(ids) for number, ids in clusters.members.items()}
    click.echo(f"{out}  {len(sizes)} clusters of {len(clusters.ids)} pairs, {clusters.digest}")
    click.echo("sizes " + ", ".join(map(str, sizes.values())))


if __name__ == "__main__":
    run(main)
