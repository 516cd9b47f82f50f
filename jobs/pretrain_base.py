r"""Train a base generator from scratch; `wbc-base`, which ships with the factory, came from here.

    python jobs/pretrain_base.py --data DATASET --output runs/wbc-base --export my-base
    ray job submit --working-dir . -- python jobs/pretrain_base.py --workers 4 --gpu ...
    python jobs/pretrain_base.py --without-ray ...          # one process, e.g. a lone GPU box

A killed run goes on where it was when it is started again with the same --output; --export-only
writes what its newest checkpoint draws, also while it runs. Where only such an export is left, a
new run goes on from its weights, with a fresh optimiser:

    python jobs/pretrain_base.py --config wbc_base2 --set denoiser.base=EXPORT \
        --set 'autoencoder={base: EXPORT, steps: 0, trains: decoder}' --data ... --output runs/more
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "source", default="wbc_base", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--export", "folder", type=click.Path(path_type=Path), help="The generator folder.")
@click.option("--perceptual-weights", type=click.Path(path_type=Path), metavar="SAFETENSORS")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--gpu", is_flag=True, help="A GPU for every worker.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
@click.option("--export-only", is_flag=True, help="Of the newest checkpoint; train nothing.")
def main(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    output: Path,
    folder: Path | None,
    perceptual_weights: Path | None,
    workers: int,
    gpu: bool,
    without_ray: bool,
    export_only: bool,
) -> None:
    """Train autoencoder, text encoder and U-Net, then export EMA weights."""
    from factory.config import load_config
    from factory.finetune.base_config import BaseConfig
    from factory.finetune.base_run import export_base, prepare_base, pretrain_on_ray, train_here
    from factory.finetune.stages import claimed
    from factory.sample.session import ray_session

    config = load_config(BaseConfig, source, overrides)
    if not export_only:
        with claimed(output, "base"):
            prepare_base(config, data, output)
            if without_ray:
                train_here(config, output, perceptual_weights=perceptual_weights, report=click.echo)
            else:
                with ray_session(show_workers=True):
                    pretrain_on_ray(
                        config,
                        output,
                        workers=workers,
                        use_gpu=gpu,
                        perceptual_weights=perceptual_weights,
                    )
    generator = export_base(config, output, folder or output / "generator")
    click.echo(f"{config.name} {generator.model_id} in {generator.folder}")
    click.echo(f"next: factory judge {generator.folder} --help")


if __name__ == "__main__":
    from factory.cli import run

    run(main)
