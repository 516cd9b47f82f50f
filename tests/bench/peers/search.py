"""A search's overhead: Optuna alone in one process against our trials on Ray Tune.

    python -m tests.bench.peers.search [--trials 40] [--rounds 3]

The objective costs nothing, or sleeps: a smooth function of three axes without noise, so that the
best value says whether both look equally well. Ours is `run_trials` as it is, with that function
in place of drawing and training. Then both are killed at half of the trials and begun again: how
many evaluations the same command takes altogether is counted by a file that each one adds to.
"""

import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import optuna

from catalog.place import Place
from factory.config import parse_config
from factory.real.build import build_dataset
from factory.real.smear import smear_items
from factory.sample.session import ray_session
from factory.search import sweep
from factory.search.config import SweepConfig
from factory.search.objective import Ground, Scored
from factory.search.space import distributions
from tests.bench.peers.processes import LOOK_SECONDS, Family
from tests.bench.peers.tables import print_table, ranged, ratios
from tests.fakes.splits import split_of

SPACE = {
    "generate.guidance_scale": {"low": 1.0, "high": 6.0},
    "arm.per_class": {"low": 1, "high": 200},
    "learner.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
}
MEMORY, SQLITE, ONE, CORES = (
    "Optuna alone, in memory",
    "Optuna alone, SQLite",
    "ours, one at a time",
    "ours, a trial a core",
)


def objective(point: dict[str, Any], seconds: float, log: Path) -> float:
    """Return a value of at most 1, reached at guidance 2.3, 60 a class, rate 0.0025."""
    with log.open("a") as file:
        file.write(".")
    time.sleep(seconds)
    guidance = point["generate.guidance_scale"] - 2.3
    size = (point["arm.per_class"] - 60) / 50
    rate = math.log10(point["learner.learning_rate"] / 0.0025)
    return math.exp(-(guidance**2) - size**2 - rate**2)


def ground_in(folder: Path, trials: int, seed: int) -> Ground:
    """Return a search of `trials` on a few cells, of which nothing is ever trained."""
    cells = build_dataset(smear_items(12, seed=4, size_px=16))
    stored = {
        "name": "peers",
        "generate": {"model": "wbc-base", "num_images": 25, "seed": 0},
        "arm": {"design": "add", "per_class": 2},
        "learner": {"backbone": "test_resnet", "size_px": 16, "steps": 2, "batch_size": 4},
        "space": SPACE,
        "trials": trials,
        "seed": seed,
    }
    return Ground(
        config=parse_config(SweepConfig, stored, where="bench"),
        dataset=cells,
        splits=(split_of(cells, train=0.5, val=0.25, test=0.25),),
        catalog=Place(str(folder / "catalog")),
        output=folder / "out",
    )


def alone(folder: Path, trials: int, seed: int, seconds: float, *, sqlite: bool) -> float:
    """Search as Optuna's users do, going on with what a database holds; return the best value."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ground_in(folder, trials, seed).config
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        storage=f"sqlite:///{folder / 'optuna.db'}" if sqlite else None,
        study_name="peers",
        load_if_exists=True,
    )
    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    for _ in range(trials - len(done)):
        trial = study.ask(distributions(config))
        study.tell(trial, objective(trial.params, seconds, folder / "log"))
    return float(study.best_value)


def ours(folder: Path, trials: int, seed: int, seconds: float, *, at_once: int | None) -> float:
    """Search with `run_trials`; return the best value."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"

    def trial(point: dict[str, Any], *, ground: Ground, drawer: Any) -> None:
        begun = time.time()
        value = objective(point, seconds, log)
        scored = Scored(score=value, trained=1, num_synthetic=0, drawn=0, asked=0)
        told = {"point": point, "begun": begun, "ended": time.time()}
        sweep.tune.report({**asdict(scored), **told})

    sweep._trial = trial  # the one thing that is not as in a real search
    return sweep.run_trials(ground_in(folder, trials, seed), at_once=at_once)[0].score


Search = Callable[[Path, int, int, float], float]
SEARCHES: dict[str, Search] = {
    MEMORY: functools.partial(alone, sqlite=False),
    SQLITE: functools.partial(alone, sqlite=True),
    ONE: functools.partial(ours, at_once=1),
    CORES: functools.partial(ours, at_once=None),
}


def bench_overhead(trials: int, rounds: int, seconds: float, place: Path) -> None:
    """Print seconds a trial beyond those that the objective sleeps, and the best values."""
    spent: dict[str, list[float]] = {name: [] for name in SEARCHES}
    best: dict[str, list[float]] = {name: [] for name in SEARCHES}
    with ray_session():
        for seed in range(rounds):
            for number, (name, search) in enumerate(SEARCHES.items()):
                folder = place / f"{seconds}-{seed}-{number}"
                begun = time.perf_counter()
                best[name].append(search(folder, trials, seed, seconds))
                spent[name].append(time.perf_counter() - begun)
    print(f"\n{trials} trials of {seconds:g} s, {rounds} rounds of another seed each;"
          f" Ray runs already, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    rows = [
        [
            name,
            ranged(own, "{:.1f}"),
            ranged([each / trials - seconds for each in own], "{:.3f}"),
            ranged(ratios(own, spent[SQLITE]), "{:.2f}"),
            ranged(best[name], "{:.3f}"),
        ]
        for name, own in spent.items()
    ]
    heads = [
        "search",
        "s altogether",
        "s a trial beyond it",
        "/ Optuna alone, SQLite",
        "best value",
    ]
    print_table(heads, rows)


def bench_kills(trials: int, seconds: float, place: Path) -> None:
    """Print what a kill at half of the trials costs."""
    rows = []
    for number, name in enumerate(SEARCHES):
        folder = place / f"killed-{seconds}-{number}"
        folder.mkdir(parents=True)
        known = ["--who", name, "--trials", str(trials), "--seconds", str(seconds)]
        command = [sys.executable, "-m", __spec__.name, *known, "--folder", str(folder)]
        _child(command, folder / "log", kill_at=trials // 2)
        before = (folder / "log").stat().st_size
        told = _child(command, folder / "log", kill_at=None)
        every = (folder / "log").stat().st_size
        rows.append([name, str(before), str(every - before), str(every - trials),
                     f"{told['seconds']:.1f}"])  # fmt: skip
    print(f"\n{trials} trials of {seconds:g} s, SIGKILL when half had begun,"
          " then the same command\n")  # fmt: skip
    heads = ["search", "evaluated before", "and after", "more than asked for", "s of the second"]
    print_table(heads, rows)


def _child(command: Sequence[str], log: Path, *, kill_at: int | None) -> dict[str, float]:
    """Search in a process of its own, killed when so many evaluations have begun."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output)
        family = Family(child.pid)
        while child.poll() is None:
            family.look()
            if kill_at is not None and log.exists() and log.stat().st_size >= kill_at:
                child.kill()
            time.sleep(LOOK_SECONDS)
        family.end()
        output.seek(0)
        said = output.read().decode()
    if kill_at is not None:
        return {}
    if child.returncode:
        raise click.ClickException(f"{command} ended with {child.returncode}")
    return dict(json.loads(said.splitlines()[-1]))


@click.command()
@click.option("--trials", default=40)
@click.option("--rounds", default=3)
@click.option("--seconds", multiple=True, type=float, default=(0.0, 0.2))
@click.option("--kill-seconds", multiple=True, type=float, default=(0.2, 2.0), show_default=True)
@click.option("--who", type=click.Choice(list(SEARCHES)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    trials: int, rounds: int, seconds: tuple[float, ...], kill_seconds: tuple[float, ...],
    who: str | None, folder: Path | None,
) -> None:  # fmt: skip
    """Print the tables."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if who and folder:
        begun = time.perf_counter()
        if who in (ONE, CORES):
            with ray_session():
                best = SEARCHES[who](folder, trials, 0, seconds[0])
        else:
            best = SEARCHES[who](folder, trials, 0, seconds[0])
        print(json.dumps({"seconds": time.perf_counter() - begun, "best": best}))
        return
    with tempfile.TemporaryDirectory() as name:
        for each in seconds if rounds else ():
            bench_overhead(trials, rounds, each, Path(name))
        for each in kill_seconds:
            bench_kills(trials, each, Path(name))


if __name__ == "__main__":
    main()
