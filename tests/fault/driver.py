"""A run's driver as a process of its own, so that a test can kill it.

    python -m tests.fault.driver CATALOG CONFIG.yaml ADDRESS [STEP NUMBER]

ADDRESS 'here' draws in the process itself, without Ray: the same rows. With STEP ('before_commit'
or 'after_commit') and NUMBER it kills itself there, the NUMBER-th time.
Options of an object store come in the environment, as JSON.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from catalog.place import Place
from catalog.sink import SampleSink
from catalog.transaction import OnStep
from cluster.local import Head
from factory.config import load_config
from factory.models.generator import Generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute
from factory.sample.session import ray_session
from factory.sample.stream import stream_batches

STORAGE = "FAULT_STORAGE_OPTIONS"
HERE = "here"
PATIENCE_SECONDS = 900
"""Bounds a hang; a busy machine is no failure."""
CONFIG = """\
model: {model}
num_images: 45
classes: {{lymphocyte: a lymphocyte, monocyte: a monocyte, neutrophil: a neutrophil}}
num_inference_steps: 12
batch_size: 4
seed: {seed}
stream: {{commit_batches: 2, commit_seconds: 60, actors: {actors}}}
"""


def run_driver(
    uri: str,
    source: Path,
    head: Head,
    *fault: str,
    storage_options: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start this module as a process; its output is a pipe."""
    storage = {STORAGE: json.dumps(storage_options)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fault.driver", uri, str(source), head.address, *fault],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **head.token, **storage, "PYTHONPATH": str(Path.cwd())},
    )


def written_job(tiny: Generator, folder: Path, *, seed: int, actors: int) -> Path:
    """Write the configuration of 45 images into `folder`."""
    source = folder / f"job-{seed}.yaml"
    source.write_text(CONFIG.format(model=tiny.folder, seed=seed, actors=actors))
    return source


def finished(driver: subprocess.Popen[str]) -> None:
    """Wait for `driver`, which must succeed."""
    output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    assert driver.returncode == 0, output


def dying_at(step: str, number: int) -> OnStep:
    seen = 0

    def on_step(name: str) -> None:
        nonlocal seen
        seen += name == step
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


@contextmanager
def with_steps(on_step: OnStep) -> Iterator[None]:
    """Let every sink of this process call `on_step`."""
    original = SampleSink.__init__

    def patched(self: SampleSink, *args: object, **kwargs: object) -> None:
        original(self, *args, on_step=on_step, **kwargs)  # type: ignore[arg-type,misc]

    SampleSink.__init__ = patched  # type: ignore[method-assign]
    try:
        yield
    finally:
        SampleSink.__init__ = original  # type: ignore[method-assign]


def main() -> None:
    catalog, source, address, *fault = sys.argv[1:]
    faults = with_steps(dying_at(fault[0], int(fault[1]))) if fault else nullcontext()
    storage = json.loads(os.environ[STORAGE])
    config = load_config(GenerateConfig, Path(source))
    run = prepare(config, Place(catalog, storage or {}))
    here = address == HERE
    with faults, nullcontext() if here else ray_session(address):
        for progress in execute(run, stream=draw_here if here else stream_batches):
            print(f"drawn {progress.drawn}", flush=True)


if __name__ == "__main__":
    main()
