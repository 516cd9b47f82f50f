"""Seeded kills of whole commands, as their users start them: each ends as if nothing had happened.

`generate` runs on a local Ray of its own, of which any process may die; `finetune` and `sweep` are
killed with all their processes. After a kill the same command is given again. Only processes that
these tests started are killed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from catalog import Catalog, sql
from factory.config import load_config
from factory.errors import CatalogError
from factory.models.generator import Generator, open_generator
from factory.real.pixels import pixel_sha256
from factory.real.sources import open_dataset
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import prepare
from tests.fakes.search import sweep_command, write_search
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator
from tests.fault.driver import PATIENCE_SECONDS, written_job
from tests.finetune.test_class_conditional import TINY

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow]

COMMAND = [sys.executable, "-c", "from factory.cli import main; main()"]

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
VICTIMS = {
    "driver": ("SIGKILL", "SIGTERM", "SIGINT"),
    "actor": ("SIGKILL", "SIGTERM"),
    "encoder": ("SIGKILL", "SIGTERM"),
    "raylet": ("SIGKILL", "SIGTERM", "SIGINT"),
}
TITLES = {"actor": "SampleActor", "encoder": "write_drawn", "raylet": "raylet/raylet"}


@dataclass(frozen=True)
class Kill:
    """Who is killed, by which signal; the seed decides when."""

    victim: str
    signal: str
    seed: int

    def __str__(self) -> str:
        return f"{self.victim}-{self.signal}-{self.seed}"


KILLS = [Kill(v, s, seed) for seed in range(6) for v, signals in VICTIMS.items() for s in signals]
assert len(KILLS) == 60


def begin(*arguments: object) -> subprocess.Popen[str]:
    """Start a `factory` command in a session of its own; its output is a pipe."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


def ended(command: subprocess.Popen[str]) -> str:
    """Return the output of a command that must succeed."""
    output, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, output
    return output


def family(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the command's processes, itself last; empty when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [*psutil.Process(command.pid).children(recursive=True), psutil.Process(command.pid)]
    return []


def wait_until(reached: Callable[[], bool], command: subprocess.Popen[str]) -> None:
    """Return when `reached` holds or the command has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while command.poll() is None and not reached():
        assert time.monotonic() < deadline, "never got to where it was to be killed"
        time.sleep(0.05)


def end_all(command: subprocess.Popen[str], number: int) -> None:
    """Send the signal to the command; by SIGKILL, to all its processes."""
    everyone = family(command)
    for process in everyone if number == signal.SIGKILL else everyone[-1:]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    command.communicate(timeout=PATIENCE_SECONDS)
    for process in everyone:  # a driver's SIGTERM must leave nothing behind
        with suppress(psutil.NoSuchProcess):
            process.wait(timeout=PATIENCE_SECONDS)


# -- generate: 60 kills


@pytest.fixture(scope="module")
def job(tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_job(tiny, tmp_path_factory.mktemp("job"), seed=11, actors=1)


@pytest.fixture(scope="module")
def undisturbed(job: Path, tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Every image of the run and its pixels, as one process draws them."""
    run = prepare(load_config(GenerateConfig, job), str(tmp_path_factory.mktemp("none") / "c"))
    return {
        request.image_id: pixel_sha256(image)
        for batch in run.plan.batches()
        for request, image in zip(batch.requests, Engine(tiny).draw(batch).images, strict=True)
    }


def published(catalog: Path) -> int:
    """Return how many images are visible; none where there is no catalog yet."""
    try:
        return int(sql(Catalog(str(catalog)), "SELECT count(*) AS n FROM samples")["n"][0].as_py())
    except CatalogError:
        return 0


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_a_killed_generate_ends_with_every_image_once(
    kill: Kill, job: Path, undisturbed: Mapping[str, str], tmp_path: Path
) -> None:
    chance, catalog = random.Random(f"generate {kill}"), tmp_path / "catalog"
    command = ["generate", "--config", job, "--catalog", catalog]
    first, files = begin(*command), chance.randrange(8)
    wait_until(lambda: len(list(catalog.rglob("*.parquet"))) >= files, first)
    time.sleep(chance.random() * 0.5)
    assert strike(first, kill, chance) or first.poll() is not None
    output, _ = first.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in output, output
    assert "*** SIG" not in output, output  # no trace of C++ either
    rows = published(catalog)
    assert rows <= len(undisturbed)
    if first.returncode != 0:
        ended(begin(*command))
    found = sql(Catalog(str(catalog)), "SELECT image_id, pixel_sha256 FROM samples").to_pylist()
    assert len(found) == len(undisturbed) == 45
    assert {row["image_id"]: row["pixel_sha256"] for row in found} == undisturbed
    states = sql(Catalog(str(catalog)), "SELECT status FROM runs").to_pylist()
    assert states == [{"status": "complete"}]


def strike(command: subprocess.Popen[str], kill: Kill, chance: random.Random) -> bool:
    """Send the signal to the victim; of several of its kind, to one. Return whether one was met."""
    if kill.victim == "driver":
        command.send_signal(SIGNALS[kill.signal])
        return True
    deadline = time.monotonic() + PATIENCE_SECONDS
    while command.poll() is None and time.monotonic() < deadline:
        found = []
        for process in family(command)[:-1]:
            with suppress(psutil.NoSuchProcess):
                if TITLES[kill.victim] in " ".join(process.cmdline()):
                    found.append(process)
        if found:
            with suppress(psutil.NoSuchProcess):
                chance.choice(found).send_signal(SIGNALS[kill.signal])
                return True
        time.sleep(0.02)
    return False


# -- finetune: 20 kills a method


TRAINING = {"steps": 12, "batch_size": 2, "warmup_steps": 1}
OFTEN = {"checkpoint_seconds": 0.001}
METHODS: dict[str, dict[str, object]] = {
    "text": {
        "name": "mine",
        "n_shot": 2,
        "separate": True,
        "lora": {"rank": 2},
        "autoencoder": {"steps": 6, "batch_size": 2},
        "training": TRAINING,
        "cluster": OFTEN,
        "validation": {"every_steps": 4, "draw_every": None},
    },
    "class_conditional": {
        **TINY,
        "only": [],
        "training": {**TRAINING, "ema_decay": 0.9},
        "cluster": OFTEN,
        "validation": {"every_steps": 4, "draw_every": None, "best_by": "val_loss"},
    },
    "pairs": {
        "method": "pairs",
        "name": "mine",
        "size_px": 16,
        "fold": 2,
        "network": {
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "attention_levels": 1,
            "attention_head_dim": 8,
            "norm_num_groups": 4,
        },
        "training": TRAINING,
        "cluster": OFTEN,
    },
}
METHOD_KILLS = [
    (method, name, seed)
    for method in METHODS
    for seed, name in enumerate(["SIGKILL"] * 10 + ["SIGTERM"] * 5 + ["SIGINT"] * 5)
]


@dataclass(frozen=True)
class Training:
    """A fine-tuning without its output, and the digest that an undisturbed one ends with."""

    arguments: tuple[object, ...]
    model_id: str
    seconds: float


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Training]:
    """Undisturbed trainings by method, each made once."""
    done: dict[str, Training] = {}
    data = "smear:40?size=16"
    dataset = open_dataset(data)
    place = tmp_path_factory.mktemp("trainings")
    split_of(dataset, train=0.6, val=0.2, test=0.2).save(place / "split.json")
    base = tiny_generator(place / "base", class_names=dataset.class_names)

    def of(method: str) -> Training:
        if method not in done:
            stored = METHODS[method] | ({"base": str(base.folder)} if method == "text" else {})
            (place / f"{method}.yaml").write_text(yaml.safe_dump(stored))
            asked = ["finetune", "--config", place / f"{method}.yaml", "--data", data]
            asked += ["--split", place / "split.json", "--without-ray"]
            begun = time.monotonic()
            ended(begin(*asked, "--output", place / method))
            generator = open_generator(place / method / "generator")
            seconds = time.monotonic() - begun
            done[method] = Training(tuple(asked), generator.model_id, seconds)
        return done[method]

    return of


@pytest.mark.parametrize(("method", "name", "seed"), METHOD_KILLS)
def test_a_killed_training_ends_with_the_same_bits(
    method: str, name: str, seed: int, trainings: Callable[[str], Training], tmp_path: Path
) -> None:
    training, chance = trainings(method), random.Random(f"{method} {name} {seed}")
    command = [*training.arguments, "--output", tmp_path / "run"]
    first, wanted = begin(*command), chance.randrange(1, 12)
    wait_until(lambda: len(list(tmp_path.rglob("*"))) >= 4 * wanted, first)
    time.sleep(chance.random())
    end_all(first, SIGNALS[name])
    if first.returncode != 0:
        ended(begin(*command))
    assert open_generator(tmp_path / "run" / "generator").model_id == training.model_id


# -- sweep: 20 kills


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, float]]:
    """A search's configuration, its data, and what an undisturbed one finds: point to score."""
    place = tmp_path_factory.mktemp("search")
    data = write_search(place)
    ended(begin(*sweep_command(place, data, place / "whole")))
    return place, data, scores(place / "whole")


def scores(where: Path) -> dict[str, float]:
    trials = json.loads((where / "out" / "sweep.json").read_text())["trials"]
    return {json.dumps(trial["point"], sort_keys=True): trial["score"] for trial in trials}


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_search_ends_with_all_its_trials(
    seed: int, search: tuple[Path, str, dict[str, float]], tmp_path: Path
) -> None:
    (place, data, expected), chance = search, random.Random(f"sweep {seed}")
    command = sweep_command(place, data, tmp_path)
    first, units = begin(*command), chance.randrange(5)
    wait_until(lambda: len(list(tmp_path.glob("out/units/*.json"))) >= units, first)
    time.sleep(chance.random() * 2)
    end_all(first, SIGNALS[("SIGKILL", "SIGTERM", "SIGINT")[seed % 3]])
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/units/*.json")}
    if first.returncode != 0:
        ended(begin(*command))
    now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/units/*.json")}
    assert kept.items() <= now.items()  # what was finished was not done again
    found = scores(tmp_path)
    assert len(found) == len(expected)
    assert all(found[point] == expected[point] for point in found.keys() & expected.keys())
