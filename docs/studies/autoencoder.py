r"""What an autoencoder costs a classifier: heads trained on either side of it, tested on either.

    python docs/studies/autoencoder.py wbc-base --data DATASET --split split.json --label class \
        --features efficientnet_lite0.safetensors

Beside docs/studies/base.md. A head trained on images in the autoencoder's hand and shown real ones
meets every texture that it smooths away, so the trip is judged in both directions. What it does to
the images themselves, `factory judge --set autoencoder=true` says.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.linear_model import LogisticRegression

from factory.arrays import Features
from factory.cli import run
from factory.errors import DataError
from factory.judge.autoencoder import autoencoder_figures, autoencoder_of, round_trip
from factory.measure.cache import ArrayCache
from factory.measure.features import load_feature_space
from factory.measure.intervals import Estimate, proportion
from factory.measure.real_features import real_part
from factory.models.generator import find_generator
from factory.real.options import FILE, column_options, opened
from factory.real.splits import load_split
from factory.terminal import say

FEATURE_NORM = 10.0
"""Length of every feature vector before the head: C of 1 then suits a few hundred rows."""


def heads(
    train: tuple[Features, Features], unseen: tuple[Features, Features], labels: tuple[Any, Any]
) -> dict[str, Estimate]:
    """Return 'real -> returned': accuracy of a head trained on real images, shown returned ones.

    Args:
        train: features (N, D) of the training images, real and returned.
        unseen: likewise of images that neither autoencoder nor heads saw.
        labels: of both.
    """
    if len(set(labels[0])) < 2:
        raise DataError("a head needs two classes or more", remedy="Give images of more classes")
    found = {}
    for learnt, features in zip(("real", "returned"), train, strict=True):
        head = LogisticRegression(C=1.0, max_iter=3000).fit(_scaled(features), labels[0])
        for shown, asked in zip(("real", "returned"), unseen, strict=True):
            hits = head.predict(_scaled(asked)) == np.array(labels[1])
            found[f"{learnt} -> {shown}"] = proportion(int(hits.sum()), len(hits))
    return found


def _scaled(features: Features) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = FEATURE_NORM * features / np.maximum(lengths, 1e-12)
    return scaled


@click.command(context_settings={"show_default": True})
@click.argument("name", metavar="GENERATOR")
@click.option("--data", required=True, metavar="URI", help="The real images of its training.")
@column_options
@click.option("--split", "source", required=True, type=FILE)
@click.option("--features", required=True, type=FILE)
@click.option("--per-class", default=160, type=click.IntRange(2), help="Of the train part.")
@click.option("--unseen", default=80, type=click.IntRange(2), help="A class, of the val part.")
@click.option("--cache", type=click.Path(path_type=Path), help="Keeps the features.")
def main(
    name: str,
    data: str,
    source: Path,
    features: Path,
    per_class: int,
    unseen: int,
    cache: Path | None,
    **columns: Any,
) -> None:
    """Print a table of PSNR, energy kept and what heads make of returned images."""
    split, generator = load_split(source), find_generator(name)
    space, kept = load_feature_space(features), ArrayCache(folder=cache)
    dataset = opened(data, columns)
    autoencoder = autoencoder_of(generator).float()
    sides, labels, pictures = [], [], []
    for ids, count in ((split.train, per_class), (split.val, unseen)):
        part = real_part(
            dataset, ids, size_px=generator.size_px, space=space, num_turns=1, cache=kept
        )
        rows = part.balanced(count)
        images = dataset.array(generator.size_px, [part.ids[i] for i in rows])
        returned = round_trip(autoencoder, images)
        sides.append((part.turns[0][rows], space.extract(returned)))
        labels.append([part.labels[i] for i in rows])
        pictures.append((returned, images))
    figures = autoencoder_figures(*pictures[1])
    say(f"| PSNR | {figures.psnr_db:.1f} dB |")
    say("|---|---|")
    for band, share in figures.kept_energy.items():
        say(f"| energy kept, {band} cycles per pixel | {share:.2f} |")
    for way, accuracy in heads(sides[0], sides[1], (labels[0], labels[1])).items():
        say(f"| head names the class, {way} | {accuracy} (n {accuracy.n}) |")


if __name__ == "__main__":
    run(main)
