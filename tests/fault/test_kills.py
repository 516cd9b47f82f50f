"""Exactly once, whatever is killed (promises I3 and I4): seeded kills of every kind of process.

Only processes that this test started are killed: drivers, and descendants of its own Ray head.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from catalog import place as places
from catalog.query import sql
from catalog.table import Catalog
from cluster.local import Head
from factory.config import load_config
from factory.models.generator import Generator
from factory.real.pixels import pixel_sha256
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import prepare
from tests.fault.driver import PATIENCE_SECONDS, finished, run_driver, written_job

pytestmark = [pytest.mark.ray, pytest.mark.fault]

KINDS = ("actor", "encoder", "driver", "before_commit", "after_commit")


@dataclass(frozen=True)
class Case:
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}"

    @property
    def seed_of_run(self) -> int:
        return random.Random(f"{self}").randrange(2**32)


ALL = [Case(kind, seed) for seed in range(6) for kind in KINDS]
FEW = [Case("actor", 0)]
MANY = [case for case in ALL if case not in FEW]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_a_killed_run_resumes_to_exactly_once(
    case: Case, head: Head, tiny: Generator, tmp_path: Path
) -> None:
    check(case, head, tiny, tmp_path, actors=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY, ids=str)
def test_many_killed_runs_resume_to_exactly_once(
    case: Case, head: Head, tiny: Generator, tmp_path: Path
) -> None:
    check(case, head, tiny, tmp_path, actors=2)


STANDS = """
import os, sys
from factory.sample.session import ray_session
with ray_session(sys.argv[1]):
    import ray
    print(ray.get(ray.remote(lambda: os.getcwd()).remote()))
"""


def test_relative_places_mean_on_a_heads_workers_what_they_mean_here(
    head: Head, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STANDS, head.address],
        cwd=tmp_path,
        env={**os.environ, **head.token, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(tmp_path)]


@dataclass(frozen=True)
class Place:
    """A catalog under attack."""

    uri: str
    source: Path
    head: Head
    storage_options: dict[str, str] | None = None

    @property
    def place(self) -> places.Place:
        """As the catalog's own functions take it."""
        return places.Place(self.uri, self.storage_options or {})

    def start(self, *fault: str) -> subprocess.Popen[str]:
        """Start a driver of the job."""
        return run_driver(
            self.uri, self.source, self.head, *fault, storage_options=self.storage_options
        )

    def view(self) -> Catalog:
        """The newest view of the catalog."""
        return Catalog(self.place)


def check(case: Case, head: Head, tiny: Generator, tmp_path: Path, *, actors: int) -> None:
    source = written_job(tiny, tmp_path, seed=case.seed_of_run, actors=actors)
    kill_and_resume(case, Place(str(tmp_path / "catalog"), source, head), tiny)


def kill_and_resume(case: Case, place: Place, tiny: Generator) -> None:
    rng = random.Random(f"kill {case}")
    killed = disturb(case, rng, place)
    versions_readable(place.view())
    finished(place.start())
    assert killed
    exactly_once(place, tiny)


def exactly_once(place: Place, tiny: Generator) -> None:
    """Every image that was asked for is there once, with the pixels that one process draws."""
    config = load_config(GenerateConfig, place.source)
    run = prepare(config, place.place)
    expected = {
        request.image_id: pixel_sha256(image)
        for batch in run.plan.batches()
        for request, image in zip(batch.requests, Engine(tiny).draw(batch).images, strict=True)
    }
    rows = sql(place.view(), "SELECT image_id, pixel_sha256 FROM samples").to_pylist()
    assert len(rows) == len(expected) == 45
    assert {row["image_id"]: row["pixel_sha256"] for row in rows} == expected
    states = sql(place.view(), "SELECT status, num_accepted + num_rejected AS n FROM runs")
    assert states.to_pylist() == [{"status": "complete", "n": 45}]


def disturb(case: Case, rng: random.Random, place: Place) -> bool:
    """Start a driver, kill what the case says, wait until the driver has ended."""
    if case.kind in ("before_commit", "after_commit"):
        driver = place.start(case.kind, str(rng.randint(1, 4)))
        return driver.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
    driver = place.start()
    wait_for_lines(driver, rng.randint(1, 6))
    time.sleep(rng.random() * 0.2)
    if case.kind == "driver":
        driver.kill()
        return driver.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
    name = "SampleActor" if case.kind == "actor" else "write_drawn"
    killed = kill_worker(place.head.pid, name, rng)
    assert driver.wait(timeout=PATIENCE_SECONDS) == 0  # Ray restarts what it runs
    return killed


def wait_for_lines(driver: subprocess.Popen[str], count: int) -> None:
    assert driver.stdout is not None
    seen: list[str] = []
    while sum("drawn" in line for line in seen) < count:
        line = driver.stdout.readline()
        assert line, "".join(seen)
        seen.append(line)


def title_of(process: psutil.Process) -> str:
    """Return how a process was called; nothing of one that has ended, waited for or not."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill_worker(head_pid: int, name: str, rng: random.Random) -> bool:
    """Kill one worker of our own head, of this kind if one is alive, else an idle one."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        mine = psutil.Process(head_pid).children(recursive=True)
        titles = {process: title_of(process) for process in mine}
        fitting = [p for p, title in titles.items() if title.startswith("ray::") and name in title]
        if not fitting and name == "write_drawn":  # between two tasks their process is idle
            fitting = [p for p, title in titles.items() if title.startswith("ray::IDLE")]
        if fitting:
            rng.choice(sorted(fitting, key=lambda p: p.pid)).kill()
            return True
        time.sleep(0.02)
    return False


def versions_readable(catalog: Catalog) -> None:
    """Whatever was killed, what is visible is whole: no image twice."""
    rows = sql(catalog, "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM samples")
    assert rows["n"] == rows["ids"]
