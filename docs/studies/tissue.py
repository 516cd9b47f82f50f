"""One lab's knowledge at another, colorectal tissue: the command behind tissue_and_polyps.md.

    python docs/studies/tissue.py --data crc_torino --output runs/tissue

A base learns from three fifths of the tiles (`source`); labels, val and test come from the 35 %
that it never saw (`unseen`). The same command goes on where a killed one stopped.
"""

from collections.abc import Sequence
from pathlib import Path

import click
from typed import factory, sets

from factory.atomic import new_folder
from factory.cli import run
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import load_split

HERE = Path(__file__).parent
PER_CLASS = 200
DRAWN = ("guidance_scale=1", "num_inference_steps=15", "seed=2", "max_tries=2")
"""Guidance 2 draws a class's commonest tiles only; a study wants all kinds."""


def write_part(dataset: RealDataset, ids: Sequence[str], folder: Path) -> None:
    """Write some images as a class folder of their own, byte for byte; whole or not at all."""
    with new_folder(folder) as work:
        for image_id in ids:
            row = dataset.index_of(image_id)
            place = work / dataset.labels[row] / Path(dataset.items[row].image.name).name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(dataset.encoded(row))


@click.command(context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.argument("more", nargs=-1)
def main(data: Path, output: Path, more: tuple[str, ...]) -> None:
    """Divide, train, draw and evaluate; MORE goes to `factory evaluate`."""
    split, catalog = output / "split.json", str(output / "catalog")
    output.mkdir(parents=True, exist_ok=True)
    if not split.exists():
        shares = ("--fractions", "train=0.6,val=0.05,test=0.35")
        factory("real", "split", str(data), "--out", str(split), *shares)
    dataset, parts = open_dataset(str(data)), load_split(split)
    for name, ids in (("source", parts.train), ("unseen", parts.test)):
        if not (output / name).exists():
            write_part(dataset, ids, output / name)
    base = ("--config", str(HERE / "tissue_base.yaml"), "--data", str(data), "--split", str(split))
    if not (output / "base" / "generator").exists():
        factory("pretrain", *base, "--output", str(output / "base"), "--without-ray")
    drawn = f"num_images={PER_CLASS * len(dataset.class_names)}"
    model = f"model={output / 'base' / 'generator'}"
    factory("generate", "--catalog", catalog, *sets(model, drawn, *DRAWN))
    study = ("--config", str(HERE / "tissue.yaml"), "--data", str(output / "unseen"))
    study += ("--catalog", catalog, "--source", f"train={output / 'source'}")
    study += tuple(sets("synthetic.foreign=[tissue-base]"))  # the parts were kept apart here
    factory("evaluate", *study, "--output", str(output / "study"), *more)


if __name__ == "__main__":
    run(main)
