"""Make the bank of the copy gate: a split's train part, calibrated on its val part.

python jobs/make_copy_bank.py --data DATA --split split.json --size-px 64 --out bank
factory generate --set copies.bank=bank
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE, FOLDER, column_options, opened


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", required=True, metavar="URI", help="Real images a generator learnt from.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--size-px", default=64, type=click.IntRange(8), help="Side of the drawn images.")
@click.option("--features", type=FILE, help="efficientnet_lite0 as safetensors; else pixels alone.")
@click.option("--out", required=True, type=FOLDER)
def main(
    data: str, split_file: Path, size_px: int, features: Path | None, out: Path, **options: object
) -> None:
    """Write the bank and tell its thresholds."""
    from factory.evaluate.copy_bank import make_bank
    from factory.real.splits import load_split

    dataset, split = opened(data, options), load_split(split_file)
    bank = make_bank(out, dataset, split, size_px=size_px, weights=features)
    told = ", ".join(f"{name} {value:.4g}" for name, value in bank.thresholds.items())
    click.echo(f"{out}  {len(bank.ids)} training images; 1 % of unseen ones are nearer than {told}")


if __name__ == "__main__":
    run(main)
