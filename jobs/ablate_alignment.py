r"""Does the alignment help? One fine-tuning under several weights and seeds, compared in pairs.

    factory expert --data tiles --split split.json --weights lite0.safetensors --output expert
    python jobs/ablate_alignment.py --data tiles --split split.json --set expert=expert \
        --features lite0.safetensors --judge-features squeezenet.safetensors --output ablation

The same command goes on where a killed one stopped. --output shows real images: keep it where the
data is.
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.real.options import FILE, FOLDER, column_options, opened


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--config", "source", default="feature_aligned", metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI")
@column_options
@click.option("--split", required=True, type=FILE)
@click.option("--features", required=True, type=FILE, help="efficientnet_lite0 as safetensors.")
@click.option("--judge-features", required=True, type=FILE, help="squeezenet1_0, the same.")
@click.option("--weight", "weights", multiple=True, default=(0.0, 0.5, 1.0), type=float)
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), type=click.IntRange(min=0))
@click.option("--per-class", default=24, type=click.IntRange(min=4))
@click.option("--guidance-scale", default=2.0, type=click.FloatRange(min=0))
@click.option("--num-inference-steps", default=20, type=click.IntRange(min=1))
@click.option("--dtype", default="float32", help="Of drawing.")
@click.option("--base", help="Held against the trainings. Default: the configuration's.")
@click.option("--output", required=True, type=FOLDER)
def main(source: str, overrides: tuple[str, ...], data: str, **options: Any) -> None:
    """Train, draw, measure; write report.md, report.json and sheets into OUTPUT."""
    from factory.config import load_config
    from factory.evaluate.ablate_alignment import Ablation, ablate
    from factory.evaluate.drawing import Settings
    from factory.finetune.config import FinetuneConfig
    from factory.measure.features import load_feature_space
    from factory.measure.squeezenet import load_squeezenet_space
    from factory.real.splits import load_split

    output, split = options.pop("output").resolve(), options.pop("split")
    features, judged = options.pop("features"), options.pop("judge_features")
    drawing = Settings(
        guidance_scale=options.pop("guidance_scale"),
        num_inference_steps=options.pop("num_inference_steps"),
    )
    own = {name: options.pop(name) for name in ("weights", "seeds", "per_class", "dtype", "base")}
    ablation = Ablation(
        space=load_feature_space(features),
        judge_space=load_squeezenet_space(judged),
        drawing=drawing,
        **own,
    )
    config = load_config(FinetuneConfig, source, overrides)
    ablate(ablation, config, opened(data, options), load_split(split), output, tell=click.echo)
    click.echo((output / "report.md").read_text())


if __name__ == "__main__":
    run(main)
