"""Few labels, and what wbc-base draws of the same classes: what `make study` runs.

    python docs/studies/few_labels.py --data smear:300 --output study

`--data` is a blood smear that is drawn by code, or any real images of which wbc-base knows two
classes or more by name (`--help` of `factory real` says what is read). Images that it has learnt
from are refused. The same command goes on where a killed one stopped.
"""

import json
from pathlib import Path

import click
from typed import factory, sets

from factory.cli import run
from factory.errors import DataError
from factory.models.generator import EMBEDDED, open_generator
from factory.real.sources import open_dataset
from factory.start.commands import known_classes

PER_CLASS = 200
DRAWN = ("guidance_scale=1", "num_inference_steps=10", "seed=1", "max_tries=3")


def shared_classes(data: str) -> tuple[dict[str, str], list[str]]:
    """Return the classes of a set that wbc-base knows too, with its prompts, and the others.

    Raises:
        DataError: fewer than two are shared.
    """
    names = open_dataset(data).class_names
    shared = known_classes(names)
    if len(shared) < 2:
        known = open_generator(EMBEDDED["wbc-base"], name="wbc-base").class_names
        raise DataError(
            f"of the classes of {data} ({', '.join(names)}) wbc-base knows {len(shared)}",
            remedy=f"Name folders as it does: {', '.join(known)};"
            " or train a generator of your own: `factory start`",
        )
    return shared, [name for name in names if name not in shared]


@click.command(context_settings={"show_default": True})
@click.option("--data", default="smear:300", help="Real images, as a path; else drawn by code.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.argument("more", nargs=-1)
def main(data: str, output: Path, more: tuple[str, ...]) -> None:
    """Draw and evaluate; MORE goes to `factory evaluate`, such as -- --set draws=20."""
    shared, others = shared_classes(data)
    catalog = ("--catalog", str(output / "catalog"))
    asked = ("--num-images", str(PER_CLASS * len(shared)))
    drawing = [f"classes={json.dumps(shared)}", *DRAWN]
    factory("generate", *catalog, *asked, *sets(*drawing))
    config = ("--config", str(Path(__file__).with_suffix(".yaml")), "--data", data)
    left_out = ("--set", f"without=[{', '.join(others)}]") if others else ()
    factory("evaluate", *config, *catalog, *left_out, "--output", str(output / "page"), *more)


if __name__ == "__main__":
    run(main)
