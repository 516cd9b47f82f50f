"""`factory expert`."""

from pathlib import Path
from typing import Any

import click

from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

TOLD_STEPS = 50


@click.command()
@click.option("--config", "source", default="expert", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--weights", type=FILE, help="Initial backbone: timm's, as safetensors.")
@click.option("--output", required=True, type=FOLDER)
def expert(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    weights: Path | None,
    output: Path,
    **columns: Any,
) -> None:
    """Train a classifier of the real images, whose features an aligned finetune is pulled to.

    It learns from the train part; its accuracy on the val part stands in OUTPUT/expert.json.

    \b
    factory expert --data tiles --split split.json --weights lite0.safetensors --output expert
    factory finetune --config feature_aligned --set expert=expert --data tiles ...
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.config import load_config
    from factory.errors import ModelError
    from factory.finetune.config import ExpertConfig
    from factory.real.splits import check_dataset, load_split

    def tell(step: int, loss: float) -> None:
        if step % TOLD_STEPS == 0:
            say(f"step {step}: loss {loss:.4f}")

    config = load_config(ExpertConfig, source, overrides)
    if weights is not None and not weights.is_file():
        raise ModelError(f"no weights at {str(weights)!r}", remedy="Correct --weights")
    parts = load_split(split)
    check_writable(output)
    dataset = opened(data, columns)
    check_dataset(parts, dataset.fingerprint)

    from factory.finetune.expert_run import make_expert

    notes = make_expert(config, dataset, parts, output, weights=weights, report=tell)
    say(f"val accuracy {notes.val_accuracy:.3f}, expert in {output}")
