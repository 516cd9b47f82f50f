"""Train the segmenter of the agreement gate on a split's train part.

python jobs/train_segmenter.py --data DATA --split split.json --out segmenter --half first
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, metavar="URI", help="Real images with masks.")
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--size-px", default=64, show_default=True, type=click.IntRange(8))
@click.option("--steps", default=1500, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--decoder", default="small_unet", show_default=True, help="unet, fpn, ...")
@click.option("--encoder", default="resnet18", show_default=True, help="Of timm; not small_unet's.")
@click.option("--encoder-weights", type=FILE, help="Of the encoder, as safetensors.")
@click.option("--half", type=click.Choice(["first", "second"]), help="Of the train part.")
def main(data: str, split_file: Path, out: Path, half: str | None, **settings: Any) -> None:
    """Train, write the folder, and tell the Dice on the val part.

    A study's judge must not be its gate: train one on each --half.
    """
    import torch

    from factory.config import parse_config
    from factory.finetune.segmenter import SegmenterConfig, mean_dice, train_segmenter
    from factory.models.pair_codec import class_index_array
    from factory.models.segmenter import save_segmenter
    from factory.real.halves import half_of_train
    from factory.real.mask_values import found_values
    from factory.real.sources import open_dataset
    from factory.real.splits import check_dataset, load_split

    config = parse_config(SegmenterConfig, settings, where="the options")
    dataset, split = open_dataset(data), load_split(split_file)
    check_dataset(split, dataset.fingerprint)
    values = found_values(dataset, split.train)
    train = half_of_train(dataset, split, half, seed=0) if half else split.train
    parts = {
        part: (
            dataset.array(config.size_px, ids),
            class_index_array(dataset.mask_array(config.size_px, ids), values, names=ids),
        )
        for part, ids in (("train", train), ("val", split.val))
        if ids
    }
    images, masks = map(torch.from_numpy, parts["train"])
    made = train_segmenter(images, masks, config)
    score = mean_dice(made, *parts["val"]) if split.val else None
    facts = {"split_digest": split.digest, "mask_values": list(values), "val_dice": score}
    facts |= {"half": half, "images_trained": len(train)}
    save_segmenter(out, made.network, {**made.facts, **facts})
    click.echo(f"{out}  Dice {score:.3f} on {len(split.val)} val images" if score else str(out))


if __name__ == "__main__":
    run(main)
