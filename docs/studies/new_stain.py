"""Another microscope and stain: the command behind new_stain.md.

    python docs/studies/new_stain.py --data wbc_seg1 --knowledge runs/knowledge \
        --weights tf_efficientnet_lite0.safetensors --output runs/stain

--knowledge is what docs/studies/knowledge_travels.py left: the source's images, for those arms that
may use them. In each of five folds wbc-base is adapted by the train part's images without their
labels, and draws. The same command goes on where a killed one stopped.
"""

from pathlib import Path

import click
from typed import factory, sets

from factory.cli import run

HERE = Path(__file__).parent
FOLDS, PER_CLASS = 5, 200
CLASSES = "classes=[eosinophil, lymphocyte, monocyte, neutrophil]"
DRAWN = (CLASSES, f"num_images={4 * PER_CLASS}", "num_inference_steps=10", "seed=1", "max_tries=3")


@click.command(context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--knowledge", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--weights", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.argument("more", nargs=-1)
def main(data: Path, knowledge: Path, weights: Path, output: Path, more: tuple[str, ...]) -> None:
    """Divide, adapt, draw and evaluate; MORE goes to `factory evaluate`."""
    output.mkdir(parents=True, exist_ok=True)
    catalog = ("--catalog", str(output / "catalog"))
    splits = [output / f"split.{fold}.json" for fold in range(FOLDS)]
    if not splits[-1].exists():
        out = ("--out", str(output / "split.json"), "--folds", str(FOLDS))
        factory("real", "split", str(data), *out)
    factory("generate", *catalog, *sets("guidance_scale=1", *DRAWN))  # as it is
    for fold, split in enumerate(splits):
        place = output / f"lab-{fold}"
        read = ("--data", str(data), "--split", str(split), "--output", str(place))
        factory("finetune", "--config", "new_lab", *read, "--without-ray")
        factory("generate", *catalog, *sets(f"model={place / 'generator'}", *DRAWN))
    source, expert = knowledge / "source", output / "expert"
    if not expert.exists():
        known = ("--data", str(source), "--split", str(output / "source.json"))
        factory(
            "real", "split", str(source), "--out", known[-1], "--fractions", "train=0.9,val=0.1"
        )
        factory("expert", *known, "--weights", str(weights), "--output", str(expert))
    study = ("--config", str(HERE / "new_stain.yaml"), "--data", str(data))
    study += tuple(word for split in splits for word in ("--split", str(split)))
    study += (*catalog, "--source", f"pbc={source}", *sets(f"learner.experts.source={expert}"))
    factory("evaluate", *study, "--output", str(output / "study"), *more)


if __name__ == "__main__":
    run(main)
