r"""How much nearer to a domain an adaptation brings a generator: distances as shares of its base's.

    factory judge runs/s16/generator --beside wbc-base --data wbc_seg1 --split s.json ... \
        --output judged
    python docs/studies/fall.py runs/s16/generator wbc-base --data wbc_seg1 --split s.json ... \
        --output judged

Beside docs/studies/cytodiff.md and the others that tell a fall. What the judgement drew and
measured is not computed again: give the same settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from factory.arrays import Features
from factory.cli import run
from factory.config import load_config
from factory.judge.config import JudgeConfig
from factory.judge.judge import open_judgement, settings_for
from factory.judge.sets import draw_set
from factory.measure.cache import ArrayCache
from factory.measure.distances import frechet_distance, kid
from factory.measure.intervals import Z95, Estimate
from factory.models.generator import find_generator
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.real.splits import load_split
from factory.terminal import say

HALVES = 20
"""Half-samples behind the interval of a fall; a Frechet distance of 1,280 features takes 1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """By how much a distance is lower than the base's, as a share of it; paired half-samples."""

    kid: Estimate
    frechet: Estimate


def fall(base: Features, adapted: Features, real: Features, *, seed: int = 0) -> Fall:
    """Return 1 - adapted / base for both distances of features (N, D), (N, D) and (M, D).

    The interval: the same random halves for both generators, `HALVES` times; their spread is the
    sampling error at the whole n (see `distances.kid`).
    """
    random = np.random.default_rng(seed)
    halves = []
    for _ in range(HALVES):
        rows = random.permutation(len(base))[: len(base) // 2]
        half = real[random.permutation(len(real))[: len(real) // 2]]
        halves.append(_shares(base[rows], adapted[rows], half))
    whole, spread = _shares(base, adapted, real), np.std(halves, axis=0, ddof=1)
    kids, frechets = (
        Estimate(value=value, low=value - Z95 * s, high=value + Z95 * s, n=len(base))
        for value, s in zip(whole, spread, strict=True)
    )
    return Fall(kid=kids, frechet=frechets)


def _shares(base: Features, adapted: Features, real: Features) -> tuple[float, float]:
    return (
        1 - kid(adapted, real).value / kid(base, real).value,
        1 - frechet_distance(adapted, real) / frechet_distance(base, real),
    )


@click.command()
@click.argument("adapted", metavar="GENERATOR")
@click.argument("base", metavar="BASE")
@click.option("--config", "source", default="judge", metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--data", required=True, metavar="URI")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--output", required=True, type=FOLDER, help="Of the judgement.")
def main(
    adapted: str,
    base: str,
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split_file: Path,
    output: Path,
    **columns: Any,
) -> None:
    """Print the fall of both distances with their intervals."""
    config = load_config(JudgeConfig, source, overrides)
    split, generator = load_split(split_file), find_generator(adapted)
    cache = ArrayCache(folder=output / "cache")
    by, classes, _ = open_judgement(config, generator, opened(data, columns), split, cache=cache)
    found = []
    for each in (find_generator(base), generator):
        chosen = settings_for(config.generate, each, tuple(classes))
        found.append(by.real.turns(draw_set(each.name, each, chosen, cache=cache).images)[0])
    told = fall(found[0], found[1], by.sides()[0].turns[0])
    say(f"KID falls by {told.kid}, the Frechet distance by {told.frechet} (n {told.kid.n})")


if __name__ == "__main__":
    run(main)
