r"""One hospital's knowledge at another, polyps with masks: the command behind tissue_and_polyps.md.

    python docs/studies/polyps.py --data polyp_cvc_clinicdb --source polyp_kvasir_seg \
        --output runs/polyps

A generator of pairs learns from --source; labels, val and test come from --data, whole sequences
each. The same command goes on where a killed one stopped.
"""

from pathlib import Path

import click
from typed import factory, sets

from factory.cli import run

HERE = Path(__file__).parent
DRAWN = ("num_images=480", "num_inference_steps=50", "seed=1")
MASKS = ("--masks", "object")


@click.command(context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--source", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.argument("more", nargs=-1)
def main(data: Path, source: Path, output: Path, more: tuple[str, ...]) -> None:
    """Train, draw and evaluate; MORE goes to `factory evaluate`."""
    output.mkdir(parents=True, exist_ok=True)
    split, trained, catalog = output / "split.json", output / "pairs", str(output / "catalog")
    if not split.exists():
        factory("real", "split", str(source), *MASKS, "--out", str(split))
    known = ("--data", str(source), *MASKS, "--split", str(split))
    learn = ("finetune", "--config", "polyp_pairs_train", *known)
    factory(*learn, "--output", str(trained), "--without-ray")
    factory("generate", "--catalog", catalog, *sets(f"model={trained / 'generator'}", *DRAWN))
    read = ("--data", str(data), *MASKS, "--group", "sequence")
    other = ("--source", f"kvasir={source}?masks=object")
    apart = sets("synthetic.foreign=[polyp-pairs]")  # two hospitals
    study = ("--config", str(HERE / "polyps.yaml"), *read, "--catalog", catalog, *other, *apart)
    factory("evaluate", *study, "--output", str(output / "study"), *more)


if __name__ == "__main__":
    run(main)
