r"""How many drawn images, drawn how? The searches behind sweeps.md.

    python docs/studies/sweeps.py cells --runs runs/knowledge --output runs/sweep-cells
    python docs/studies/sweeps.py polyps --data polyp_cvc_clinicdb --runs runs/polyps \
        --output runs/sweep-polyps

Beside what knowledge_travels.py and polyps.py left in --runs: cells, generator, catalog. The same
command goes on where a killed one stopped.
"""

from pathlib import Path

import click
from typed import factory, sets

from factory.cli import run

HERE = Path(__file__).parent
FOLDS = 5
FOLDER = click.Path(path_type=Path, exists=True)
OUTPUT = click.option("--output", required=True, type=click.Path(path_type=Path))
MORE = click.argument("more", nargs=-1)


@click.group()
def main() -> None:
    """Search, then test the winner; MORE goes to `factory sweep`."""


@main.command()
@click.option("--runs", required=True, type=FOLDER, help="Of knowledge_travels.py.")
@OUTPUT
@MORE
def cells(runs: Path, output: Path, more: tuple[str, ...]) -> None:
    """White cells that wbc-base never saw, four labels a class."""
    search("sweep_cells", ["--data", str(runs / "unseen")], runs / "catalog", output, more)


@main.command()
@click.option("--data", required=True, type=FOLDER, help="Pairs of the other hospital.")
@click.option("--runs", required=True, type=FOLDER, help="Of polyps.py.")
@OUTPUT
@MORE
def polyps(data: Path, runs: Path, output: Path, more: tuple[str, ...]) -> None:
    """Polyps of another hospital than the generator's, eight pairs."""
    read = ["--data", str(data), "--masks", "object", "--group", "sequence"]
    model = f"generate.model={runs / 'pairs' / 'generator'}"
    apart = sets(model, "synthetic.foreign=[polyp-pairs]")
    search("sweep_polyps", read, runs / "catalog", output, (*apart, *more))


def search(name: str, read: list[str], catalog: Path, output: Path, more: tuple[str, ...]) -> None:
    """Divide the real images once, and search."""
    output.mkdir(parents=True, exist_ok=True)
    parts = [output / f"split.{fold}.json" for fold in range(FOLDS)]
    if not parts[-1].exists():
        told = [*read[1:], "--folds", str(FOLDS), "--out", str(output / "split.json")]
        factory("real", "split", *told)
    splits = [word for part in parts for word in ("--split", str(part))]
    config = ("--config", str(HERE / f"{name}.yaml"))
    place = ("--catalog", str(catalog), "--output", str(output / "search"))
    factory("sweep", *config, *read, *splits, *place, *more)


if __name__ == "__main__":
    run(main)
