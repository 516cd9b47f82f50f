"""`factory bank`, `cluster-images`, `segmenter`: what gates and pairs want, of real images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.command_line import tell_next
from factory.real.options import FILE, FOLDER, column_options, given_again, opened
from factory.terminal import say

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset
    from factory.real.splits import Split

_SHOWN: dict[str, Any] = {"context_settings": {"show_default": True}}


def _real(
    data: str, options: dict[str, Any], split_file: Path, out: Path, *, weights: Path | None
) -> "tuple[RealDataset, Split]":
    """Return the images and their split: all that can be wrong is told before torch is imported.

    Raises:
        DataError, ModelError, OutputError: no such images, split or weights, or no place to write.
    """
    from factory.atomic import check_writable
    from factory.errors import ModelError
    from factory.real.splits import check_dataset, load_split

    if weights is not None and not weights.is_file():
        raise ModelError(f"no weights at {str(weights)!r}", remedy="Correct the path")
    check_writable(out)
    split, dataset = load_split(split_file), opened(data, options)
    check_dataset(split, dataset.fingerprint)
    return dataset, split


@click.command(
    hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def prepare(words: tuple[str, ...]) -> None:
    """Say what the command is called now."""
    new = {"clusters": "cluster-images"}
    name = words[0] if words else "bank"
    raise click.UsageError(
        f"`factory prepare {name}` is `factory {new.get(name, name)}` now, with the same options"
    )


@click.command("bank", **_SHOWN)
@click.option("--data", required=True, metavar="URI", help="Real images a generator learnt from.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--size-px", default=64, type=click.IntRange(8), help="Side of the drawn images.")
@click.option("--features", type=FILE, help="Weights of a network; else pixels alone.")
@click.option("--out", required=True, type=FOLDER)
def bank(
    data: str, split_file: Path, size_px: int, features: Path | None, out: Path, **options: Any
) -> None:
    """Make the bank of the copy gate: the train part, calibrated on the val part.

    \b
    factory bank --data cells --split split.json --out bank
    factory generate --set copies.bank=bank
    """  # noqa: D301 -- \b is click's mark
    dataset, split = _real(data, options, split_file, out, weights=features)
    from factory.measure.bank import make_bank

    made = make_bank(out, dataset, split, size_px=size_px, weights=features)
    told = ", ".join(f"{name} {value:.4g}" for name, value in made.thresholds.items())
    click.echo(f"{out}  {len(made.ids)} training images; 1 % of unseen ones are nearer than {told}")
    tell_next("generate", "--set", f"copies.bank={out}", "--set", f"brightness.bank={out}")


@click.command("cluster-images", **_SHOWN)
@click.option("--data", required=True, metavar="URI", help="Real images with masks.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option(
    "--features", required=True, type=FILE,
    help="Weights of EfficientNet-Lite0, SqueezeNet 1.0, the FID's Inception v3 or a DINO ViT.",
)  # fmt: skip
@click.option("--out", required=True, type=FILE)
@click.option("-k", default=20, type=click.IntRange(1))
@click.option("--min-size", default=8, type=click.IntRange(1))
@click.option("--seed", default=0, type=click.IntRange(0))
def clusters(
    data: str,
    split_file: Path,
    features: Path,
    out: Path,
    k: int,
    min_size: int,
    seed: int,
    **columns: Any,
) -> None:
    """Group the real pairs of the train part by what they look like."""
    dataset, split = _real(data, columns, split_file, out.parent, weights=features)
    from factory.measure.features import load_feature_space
    from factory.real.clusters import make_clusters

    space = load_feature_space(features)
    made = make_clusters(
        dataset,
        split,
        space.extract,
        extractor=f"{space.name} {space.digest}",
        k=k,
        min_size=min_size,
        seed=seed,
    )
    made.save(out)
    sizes = {number: len(ids) for number, ids in made.members.items()}
    click.echo(f"{out}  {len(sizes)} clusters of {len(made.ids)} pairs, {made.digest}")
    click.echo("sizes " + ", ".join(map(str, sizes.values())))
    keys = ("--set", f"clusters={out}", "--set", "condition=cluster")
    real = ("--data", data, *given_again(columns), "--split", split_file)
    tell_next("finetune", "--config", "polyp_pairs_train", *real, *keys, "--output", "runs/pairs")


@click.command("segmenter", **_SHOWN)
@click.option("--data", required=True, metavar="URI", help="Real images with masks.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--out", required=True, type=FOLDER)
@click.option("--size-px", default=64, type=click.IntRange(8))
@click.option("--steps", default=1500, type=click.IntRange(1))
@click.option("--seed", default=0, type=click.IntRange(0))
@click.option("--decoder", default="small_unet", help="unet, fpn, ...")
@click.option("--encoder", default="resnet18", help="Of timm; not small_unet's.")
@click.option("--encoder-weights", type=FILE, help="Of the encoder, as safetensors.")
@click.option("--half", type=click.Choice(["first", "second"]), help="Of the train part.")
def segmenter(
    data: str,
    split_file: Path,
    out: Path,
    half: str | None,
    size_px: int,
    steps: int,
    seed: int,
    decoder: str,
    encoder: str,
    encoder_weights: Path | None,
    **columns: Any,
) -> None:
    """Train the segmenter of the agreement gate, and tell its Dice on the val part.

    A study's judge must not be its gate: train one on each --half.
    """
    from factory.config import parse_config
    from factory.finetune.config import SegmenterConfig

    settings: dict[str, Any] = {
        "size_px": size_px,
        "steps": steps,
        "seed": seed,
        "decoder": decoder,
    }
    settings |= {"encoder": encoder, "encoder_weights": encoder_weights}
    config = parse_config(SegmenterConfig, settings, where="the options")
    dataset, split = _real(data, columns, split_file, out, weights=config.encoder_weights)
    from factory.finetune.segmenter import train_gate_segmenter

    score = train_gate_segmenter(out, dataset, split, config, half=half, tell=say)
    told = "" if score is None else f"  Dice {score:.3f} on {len(split.val)} val images"
    click.echo(f"{out}{told}")
    tell_next("generate", "--set", f"agreement.segmenter={out}")
