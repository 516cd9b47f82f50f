"""Restart of a long run: time to the first new image and the driver's memory, small against large.

    python -m tests.bench.bench_restart

Fills a table with a run's rows (tiny images), all but the last batch, and resumes it.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from catalog.sink import BatchFile, SampleSink, write_batch
from factory.gate.pixel import PixelGates
from factory.models.generator import open_generator
from factory.sample.config import GenerateConfig
from factory.sample.drawn import Drawn
from factory.sample.prepare import Run, make_plan, prepare
from factory.sample.rows import RunFacts, batch_rows
from factory.sample.run import execute
from factory.sample.session import ray_session
from tests.bench.timing import peak_mib, told
from tests.fakes.tiny import tiny_generator

BATCH = 32  # the default: 100,000 rows are 3,125 files


def job(folder: Path, rows: int) -> Run:
    """Return the run of `rows` images plus one batch more."""
    config = GenerateConfig(
        model=str(folder / "tiny"),
        num_images=rows + BATCH,
        classes={"monocyte": "a monocyte"},
        num_inference_steps=1,
        batch_size=BATCH,
        guidance_scale=1,
        seed=1,
    )
    return prepare(config, str(folder / f"catalog-{rows}"))


def fill(folder: Path, rows: int) -> None:
    """Publish every batch but the last, with one small image in all rows."""
    run = job(folder, rows)
    plan = make_plan(run.config, open_generator(folder / "tiny"))
    facts = RunFacts(
        run_id=run.run_id,
        started_at=datetime.now(UTC),
        code_version="bench",
        class_names=("monocyte",),
        gates=(PixelGates(),),
    )
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)

    def written() -> Iterator[BatchFile]:
        for batch in plan.batches(range(plan.num_batches - 1)):
            rows = batch_rows(batch, Drawn(images=image.repeat(len(batch.requests), 0)), facts)
            yield write_batch(run.place.uri, run_id=run.run_id, batch_index=batch.index, rows=rows)

    SampleSink(run.place.uri, run.run_id).commit(list(written()))


def resume(folder: Path, rows: int) -> None:
    """Print seconds to the first new image (Ray is up), and peak memory, the end included."""
    with ray_session():
        begun = time.perf_counter()
        steps = execute(job(folder, rows))
        first = next(steps)
        seconds = time.perf_counter() - begun
        steps.close()  # counts what is published, as the end of a run does
        print(seconds, peak_mib(), first.drawn)


def main() -> None:
    """Compare 10,000 rows with 100,000."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_generator(folder / "tiny")
        for rows in (10_000, 100_000):
            fill(folder, rows)
            figures = []
            for _ in range(3):
                command = [sys.executable, "-m", "tests.bench.bench_restart", name, str(rows)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures.append([float(x) for x in done.stdout.split()[-3:]])
            print(told(f"{rows} rows: first new image", [f[0] for f in figures], "s"))
            print(told(f"{rows} rows: peak memory", [f[1] for f in figures], "MiB"))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        resume(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
