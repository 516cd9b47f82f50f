"""Does a study call nothing something? Study 1 with everybody's labels shuffled, and three oracles.

    python docs/studies/nulls.py --runs runs/knowledge --output runs/nulls

Beside docs/studies/knowledge_travels.md, on the cells and the catalog that its command left in
--runs. A label that is anybody's teaches nothing, and neither do drawn cells beside it: of twenty
such studies about one in forty says "helps". Oracles know more labels, or the source's images: each
has to be found. The same command goes on where a killed one stopped.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factory.atomic import write_text
from factory.cli import run
from factory.command_line import goes_on
from factory.config import load_config, parse_config, to_yaml
from factory.evaluate.commands import evaluate
from factory.evaluate.config import StudyConfig
from factory.terminal import say

STUDY = Path(__file__).with_name("knowledge_travels.yaml")
NULL = {"real": {"design": "real"}, "mixed": {"design": "add", "per_class": 200, "real_share": 0.5}}
ORACLES = {
    "source minus real": {"real": {"design": "real"},
                          "source": {"design": "source", "source": "pbc", "per_class": 200}},
    "real_16 minus real": {"real": {"design": "real"}, "real_16": {"design": "real", "shots": 16}},
    "real_40 minus real": {"real": {"design": "real"}, "real_40": {"design": "real", "shots": 40}},
}  # fmt: skip
"""Primary comparison -> arms."""


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """Return a table of cells with their classes permuted."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(table))
    column = table.schema.get_field_index("class")
    return table.set_column(column, "class", table["class"].take(pa.array(order)))


def config(name: str, arms: Mapping[str, Any], primary: str, draws: int) -> StudyConfig:
    """Return study 1 with other arms."""
    whole = load_config(StudyConfig, STUDY).model_dump(mode="json")
    own = {"name": name, "draws": draws, "primary": primary, "arms": arms}
    return parse_config(StudyConfig, whole | own, where=name)


@click.command(context_settings={"show_default": True})
@click.option("--runs", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--repeats", default=20, type=click.IntRange(1))
@click.option("--draws", default=4, type=click.IntRange(2))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(runs: Path, repeats: int, draws: int, output: Path) -> None:
    """Run all of them and tell what they said."""
    cells = pq.read_table(runs / "unseen" / "unseen.parquet")
    found: Counter[str] = Counter()
    with goes_on("finished studies stay"):
        for seed in range(repeats):
            data = output / f"labels-{seed}"
            data.mkdir(parents=True, exist_ok=True)
            pq.write_table(shuffled(cells, seed), data / "cells.parquet")
            made = config(f"null-{seed}", NULL, "mixed minus real", draws)
            told = study(made, data, runs, output)
            finding = told["findings"]["mixed"]
            found[finding] += 1
            say(f"labels shuffled by seed {seed}: {finding}")
        for primary, arms in ORACLES.items():
            name = primary.partition(" ")[0]
            told = study(config(name, arms, primary, draws), runs / "unseen", runs, output)
            say(f"oracle: {told['primary_verdict']}")
    say(f"of {repeats} studies of nothing: {', '.join(f'{n} {w}' for w, n in found.items())}")


def study(made: StudyConfig, data: Path, runs: Path, output: Path) -> dict[str, Any]:
    """Return the report of a study, run unless it was."""
    place = output / made.name
    if not (place / "report.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_text(output / f"{made.name}.yaml", to_yaml(made))
        words = ["--config", str(output / f"{made.name}.yaml"), "--data", str(data)]
        words += ["--catalog", str(runs / "catalog"), "--source", f"pbc={runs / 'source'}"]
        words += ["--output", str(place), "--without-ray"]
        evaluate.main(words, standalone_mode=False, prog_name="factory")
    report: dict[str, Any] = json.loads((place / "report.json").read_text())
    return report


if __name__ == "__main__":
    run(main)
