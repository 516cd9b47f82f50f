"""The main job, submitted to a real head as `make wbc` does."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from catalog.query import sql
from catalog.table import Catalog
from factory.models.generator import Generator

ROOT = Path(__file__).parents[2]


def _running(mark: dict[str, str]) -> list[dict[str, Any]]:
    """Return the processes, zombies left out, that were started with these variables."""
    all_of = [p.info for p in psutil.process_iter(["cmdline", "environ", "status"])]
    alive = [p for p in all_of if p["status"] != psutil.STATUS_ZOMBIE and p["environ"]]
    return [p for p in alive if mark.items() <= p["environ"].items()]


@pytest.mark.ray
def test_a_submitted_job_draws_prints_and_leaves_nothing_running(
    tiny: Generator, tmp_path: Path
) -> None:
    uri = str(tmp_path / "catalog")
    command = [
        *(sys.executable, "cluster/local.py"),
        *("python", "jobs/generate_wbc.py", "--catalog", uri, "--num-images", "12"),
        *("--set", f"model={tiny.folder}", "--set", "classes={monocyte: a monocyte}"),
        *("--set", "num_inference_steps=2", "--set", "batch_size=4", "--set", "stream.actors=1"),
    ]
    ours = {"FACTORY_TEST": uuid.uuid4().hex}  # a neighbour's cluster is no business of ours
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, env={**os.environ, **ours}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("12/12 images", "monocyte", "sheet", "factory regenerate"):
        assert expected in done.stdout
    assert sql(Catalog(uri), "SELECT count(*) AS n FROM samples")["n"].to_pylist() == [12]
    assert len(list(Path(uri, "sheets").glob("run-*.png"))) == 1
    deadline = time.monotonic() + 30  # a worker in a group of its own sees that its node is gone
    while left := _running(ours):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.slow
def test_a_failing_job_fails_the_command(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "cluster/local.py"),
        *(
            "python",
            "jobs/generate_wbc.py",
            "--catalog",
            str(tmp_path / "c"),
            "--set",
            "model=nowhere",
        ),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert "error: no generator at 'nowhere'" in done.stdout + done.stderr


def test_every_job_runs_when_it_is_called() -> None:
    for job in (ROOT / "jobs").glob("*.py"):
        lines = job.read_text().splitlines()
        start = lines.index('if __name__ == "__main__":')
        assert any("run" in line for line in lines[start + 1 :]), job.name


def test_the_job_is_short_enough_to_read() -> None:
    for job in (ROOT / "jobs").glob("*.py"):
        assert len(job.read_text().splitlines()) <= 80, job.name
