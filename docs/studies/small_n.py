r"""How many drawn images help how few real ones: N of these, and r drawn ones for each, a table.

    python docs/studies/small_n.py --data polyps --split split.json --output small-n \
        --train polyp_pairs_train --study evaluate_segment -n 16 -n 32 -n 64 -n 128 -r 1 -r 2 -r 3

Beside docs/studies/does_it_help.md. For every N a generator learns from these N alone, draws, and a
learner is trained on the real ones with and without the drawn ones, tested on real images. The same
command goes on where a killed one stopped.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from factory.atomic import write_text
from factory.cli import run
from factory.command_line import goes_on
from factory.evaluate.commands import evaluate
from factory.finetune.commands import finetune
from factory.real.options import FILE, FOLDER, column_options, given_again
from factory.sample.commands import generate
from factory.terminal import say

SPARE = 1.5
"""Images drawn for each that is needed: gates refuse some, and classes differ in size."""


def words_of(keys: Sequence[str]) -> list[str]:
    """Return the words that set `keys`."""
    return [word for key in keys for word in ("--set", key)]


def arms(ratios: Sequence[int]) -> str:
    """Return the arms of one N as a key of a study: controls, and one for every r."""
    most = max(ratios)
    known: dict[str, Any] = {"real": {"design": "real"}}
    known["duplicate"] = {"design": "duplicate", "like": f"r{most}"}
    known |= {f"r{r}": {"design": "ratio", "ratio": r} for r in ratios}
    return f"arms={json.dumps(known)}"


def table(found: Mapping[int, Mapping[str, Any]], metric: str) -> Iterator[str]:
    """Yield a Markdown table: a line for every N, a column for every arm, mean and spread.

    Args:
        found: report.json of every N.
        metric: of the test part.
    """
    names = list(next(iter(found.values()))["arms"])
    yield f"| N real | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for number, report in found.items():
        cells = []
        for name in names:
            scores = report["arms"][name]["test"][metric]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.fmean(scores):.3f}{spread} (n {len(scores)})")
        yield f"| {number} | {' | '.join(cells)} |"


@click.command(context_settings={"show_default": True})
@click.option("-n", "sizes", multiple=True, default=(16, 32, 64, 128), type=click.IntRange(1))
@click.option("-r", "ratios", multiple=True, default=(1, 2, 3), type=click.IntRange(1))
@click.option("--data", required=True, metavar="URI")
@column_options
@click.option("--split", required=True, type=FILE)
@click.option("--train", default="polyp_pairs_train", metavar="FILE|PRESET")
@click.option("--train-set", multiple=True, metavar="KEY=VALUE", help="Of the fine-tuning.")
@click.option("--draw-set", multiple=True, metavar="KEY=VALUE", help="Of the drawing.")
@click.option("--study", default="evaluate_segment", metavar="FILE|PRESET")
@click.option("--study-set", multiple=True, metavar="KEY=VALUE", help="Of the study.")
@click.option("--metric", default="iou", help="Of the table.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
@click.option("--output", required=True, type=FOLDER)
def main(
    sizes: tuple[int, ...],
    ratios: tuple[int, ...],
    data: str,
    split: Path,
    train: str,
    train_set: tuple[str, ...],
    draw_set: tuple[str, ...],
    study: str,
    study_set: tuple[str, ...],
    metric: str,
    without_ray: bool,
    output: Path,
    **columns: Any,
) -> None:
    """Train, draw and study for every N, and print one table."""
    from factory.real.splits import load_split

    load_split(split)
    real = ["--data", data, "--split", str(split), *given_again(columns)]
    alone = ["--without-ray"] if without_ray else []
    inner: dict[str, Any] = {"standalone_mode": False, "prog_name": "factory"}
    found = {}
    with goes_on("what was trained and drawn stays"):
        for number in sizes:
            place = output / f"n{number}"
            report = place / "study" / "report.json"
            if not report.is_file():
                say(f"N = {number}")
                keys = words_of([*train_set, f"n_shot={number}"])
                trained = ["--config", train, *keys, *alone, "--output", str(place / "train")]
                finetune.main([*real, *trained], **inner)
                model = f"model={place / 'train' / 'generator'}"
                count = ["--num-images", str(round(SPARE * max(ratios) * number))]
                drawn = [*words_of([*draw_set, model, "seed=0"]), *count]
                generate.main([*drawn, *alone, "--catalog", str(place / "catalog")], **inner)
                keys = words_of([*study_set, arms(ratios), f"shots={number}"])
                words = ["--config", study, *keys, "--catalog", str(place / "catalog"), *alone]
                evaluate.main([*real, *words, "--output", str(place / "study")], **inner)
            found[number] = json.loads(report.read_text())
    lines = list(table(found, metric))
    write_text(output / "table.md", "\n".join(lines) + "\n")
    for line in lines:
        say(line)


if __name__ == "__main__":
    run(main)
