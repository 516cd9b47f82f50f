"""`factory ablate`: one fine-tuning under several values of a key and several seeds, each judged.

Trainings of one seed see the same images, turns, noise and initial weights in the same order: they
differ by the key alone, and are compared in pairs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from factory.command_line import goes_on
from factory.real.options import FILE, FOLDER, column_options, given_again
from factory.terminal import say

REPORT, ASKED = "ablation.json", "asked.json"
MEASURES: Mapping[str, tuple[str, ...]] = {
    "KID": ("distances", "kid", "value"),
    "Frechet distance": ("distances", "frechet"),
    "precision": ("distances", "overlap", "precision"),
    "recall": ("distances", "overlap", "recall"),
    "judge sees what was asked": ("judge", "overall", "value"),
    "expert sees what was asked": ("expert", "overall", "value"),
    "1 - SSIM": ("diversity", "1 - SSIM", "mean", "value"),
    "SSIM to nearest learnt image": ("ssim_to_nearest", "value"),
}
"""By name: where judge.json holds it, in the last of its sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the trainings that are compared."""

    value: str
    """Of the key, as it was typed."""
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.value}-seed-{self.seed}"


def arms_of(values: Sequence[str], seeds: Sequence[int]) -> list[Arm]:
    """Return every value under every seed, seed by seed: a cut-off series still has pairs.

    Raises:
        ConfigError: fewer than two values, or a value or seed twice.
    """
    from factory.errors import ConfigError

    if len(set(values)) < 2 or len(set(values)) < len(values) or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"values {', '.join(values) or 'none'} and seeds {list(seeds)} compare nothing",
            remedy="Give two values or more (--vary KEY=A,B), and nothing twice",
        )
    return [Arm(value=value, seed=seed) for seed in seeds for value in values]


@click.command()
@click.option("--vary", required=True, metavar="KEY=A,B,...", help="Of the fine-tuning.")
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), type=click.IntRange(min=0))
@click.option("--config", "source", default="feature_aligned", metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of the fine-tuning.")
@click.option("--judge", "judging", multiple=True, metavar="KEY=VALUE", help="See factory judge.")
@click.option("--data", required=True, metavar="URI")
@column_options
@click.option("--split", required=True, type=FILE)
@click.option("--beside", multiple=True, metavar="GENERATOR", help="Judged with the first one.")
@click.option("--output", required=True, type=FOLDER, help="Goes on where a killed one stopped.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
def ablate(
    vary: str,
    seeds: tuple[int, ...],
    source: str,
    overrides: tuple[str, ...],
    judging: tuple[str, ...],
    data: str,
    split: Path,
    beside: tuple[str, ...],
    output: Path,
    without_ray: bool,
    **columns: Any,
) -> None:
    """Does a key of the fine-tuning help? Train, draw and judge under each value, and compare.

    \b
    factory ablate --vary alignment.weight=0,0.5,1 --set expert=expert --data tiles --split s ...
    factory ablate --vary attention_window=null,4 --data tiles --split split.json ...
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable, write_text
    from factory.finetune.commands import finetune
    from factory.judge.commands import judge
    from factory.judge.config import FIGURES

    key, _, listed = vary.partition("=")
    arms = arms_of([value for value in listed.split(",") if value], seeds)
    check_writable(output)
    real = ["--data", data, "--split", str(split), *given_again(columns)]
    train = ["--config", source, *_set(overrides), *(["--without-ray"] if without_ray else [])]
    measure = _set(judging)
    _claim(output / ASKED, [vary, *real, *train, *measure])
    with goes_on("finished trainings stay"):
        for number, arm in enumerate(arms):
            folder = output / arm.name
            if (folder / "judged" / FIGURES).is_file():
                continue
            own = [f"{key}={arm.value}", f"seed={arm.seed}", *_first_stage(output / arms[0].name)]
            own = own if number else own[:2]
            say(f"{arm.name}: {number + 1} of {len(arms)}")
            finetune.main([*real, *train, *_set(own), "--output", str(folder)], **_INNER)
            others = [word for each in beside if not number for word in ("--beside", each)]
            words = [*real, *measure, *others, "--output", str(folder / "judged")]
            judge.main([str(folder / "generator"), *words], **_INNER)
    figures = {
        arm: json.loads((output / arm.name / "judged" / FIGURES).read_text()) for arm in arms
    }
    found = compare({arm: each["sets"][-1] for arm, each in figures.items()})
    write_text(output / REPORT, json.dumps([asdict(each) for each in found], indent=1) + "\n")
    for line in to_lines(found, key, len(set(seeds))):
        say(line)
    say(f"figures: {output / REPORT}, and a page for each training in {output}")


_INNER: dict[str, Any] = {"standalone_mode": False, "prog_name": "factory"}


def _set(overrides: Sequence[str]) -> list[str]:
    return [word for text in overrides for word in ("--set", text)]


def _first_stage(first: Path) -> list[str]:
    """Return the overrides by which a training begins with the autoencoder of the first one."""
    made = [base for base in sorted(first.glob("base-*")) if (base / "factory.json").is_file()]
    return [f"base={made[0]}", "autoencoder={steps: 0}"] if made else []


def _claim(path: Path, words: list[str]) -> None:
    """Write what was asked, or raise ConfigError where something else was asked before."""
    from factory.atomic import write_text
    from factory.errors import ConfigError

    text = json.dumps(words, indent=1) + "\n"
    if path.is_file() and path.read_text() != text:
        raise ConfigError(
            f"{path.parent} holds an ablation of other settings",
            remedy="Choose another --output, or delete this one",
        )
    write_text(path, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure: its mean by value, and the differences to the first value, over the seeds."""

    measure: str
    means: Mapping[str, Any]
    """Value -> `Estimate`."""
    differences: Mapping[str, Any]


def compare(figures: Mapping[Arm, Mapping[str, Any]]) -> list[Comparison]:
    """Return a comparison for every measure that all trainings have; pairs share their seed.

    Seeds that lack a value are left out, so that every mean is of the same seeds. With fewer than
    two whole seeds there is nothing to compare: the list is empty.
    """
    from factory.measure.intervals import mean_of, paired_difference

    values = list(dict.fromkeys(arm.value for arm in figures))
    seeds = [
        seed
        for seed in dict.fromkeys(arm.seed for arm in figures)
        if all(Arm(value=value, seed=seed) in figures for value in values)
    ]
    if len(seeds) < 2:
        return []
    found = []
    for measure, path in MEASURES.items():
        by = {v: [_at(figures[Arm(value=v, seed=s)], path) for s in seeds] for v in values}
        known = {v: [x for x in own if x is not None] for v, own in by.items()}
        if any(len(own) < len(seeds) for own in known.values()):
            continue
        first = known[values[0]]
        found.append(
            Comparison(
                measure=measure,
                means={v: mean_of(own) for v, own in known.items()},
                differences={v: paired_difference(known[v], first) for v in values[1:]},
            )
        )
    return found


def _at(figures: Any, path: Sequence[str]) -> float | None:
    for name in path:
        figures = None if figures is None else figures.get(name)
    return None if figures is None else float(figures)


def to_lines(found: Sequence[Comparison], key: str, seeds: int) -> Iterator[str]:
    """Yield the comparison as a Markdown table."""
    if not found:
        yield "Fewer than two seeds are finished under every value: nothing to compare."
        return
    values = list(found[0].means)
    yield f"Means over {seeds} seeds and paired differences, with Student's 95 % intervals:"
    heads = [f"{key} = {v}" for v in values] + [f"{v} minus {values[0]}" for v in values[1:]]
    yield f"| | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for each in found:
        cells = [*each.means.values(), *each.differences.values()]
        yield f"| {each.measure} | {' | '.join(map(str, cells))} |"
