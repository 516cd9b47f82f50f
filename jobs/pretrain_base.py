r"""Train a base generator from scratch: what `factory pretrain` does, under the options of before.

python jobs/pretrain_base.py --data DATASET --output runs/wbc-base --export my-base

--workers 4              --set cluster='{workers: 4, sharding: ddp}'
--gpu                    --set cluster.use_gpu=true
--perceptual-weights W   --set autoencoder.perceptual=W
--export FOLDER          the generator is copied there from OUTPUT/generator
"""

import shutil
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--export", "folder", type=click.Path(path_type=Path), help="The generator folder.")
@click.option("--perceptual-weights", type=click.Path(path_type=Path), metavar="SAFETENSORS")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--gpu", is_flag=True, help="A GPU for every worker.")
@click.argument("others", nargs=-1, type=click.UNPROCESSED)
def main(
    output: Path,
    folder: Path | None,
    perceptual_weights: Path | None,
    workers: int,
    gpu: bool,
    others: tuple[str, ...],
) -> None:
    """Run `factory pretrain`, which takes all OTHERS as they are."""
    from factory.finetune.commands import pretrain

    asked = [f"cluster.workers={workers}", "cluster.sharding=ddp"] if workers > 1 else []
    asked += ["cluster.use_gpu=true"] if gpu else []
    asked += [f"autoencoder.perceptual={perceptual_weights}"] if perceptual_weights else []
    words = [word for key in asked for word in ("--set", key)]
    click.echo("this is now: factory pretrain", err=True)
    pretrain.main([*words, "--output", str(output), *others], standalone_mode=False)
    if folder is not None:
        shutil.copytree(output / "generator", folder)
        click.echo(f"copied to {folder}")


if __name__ == "__main__":
    from factory.cli import run

    run(main)
