"""A million tiny images through the whole line, drawn by a sampler that costs nothing.

    python -m tests.bench.bench_scale [--num-images 1000000]

Plan, Ray Data, actors, gates, PNG, Parquet, commits and the end of the run are the real ones; only
the network is not there: an actor returns noise of each image's own. What grows with the number of
images therefore shows: the driver's memory, and images per second. Prints both for every tenth of
the run, the memory's slope (least squares), and what the catalog and its log have become.
"""

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil

from catalog.progress import run_states
from catalog.query import sql
from catalog.table import Catalog
from factory.sample import stream
from factory.sample.config import GenerateConfig
from factory.sample.prepare import Run, prepare
from factory.sample.run import execute
from factory.sample.session import ray_session
from tests.fakes.free import SIZE_PX, FreeActor
from tests.fakes.tiny import CLASSES, tiny_generator

LOOKS = 200
"""How often time and memory are written down."""


@dataclass(frozen=True, slots=True)
class Look:
    """The driver at one moment."""

    images: int
    seconds: float
    mib: float
    cpu_seconds: float


def job(folder: Path, num_images: int, batch_size: int) -> Run:
    """Return a run of `num_images` of three classes."""
    config = GenerateConfig(
        model=str(folder / "tiny"),
        num_images=num_images,
        classes={name: f"a {name}" for name in CLASSES},
        num_inference_steps=1,
        batch_size=batch_size,
        seed=1,
        size_px=SIZE_PX,
        gates={"min_sharpness": None},
    )
    return prepare(config, str(folder / "catalog"))


def watch(run: Run) -> list[Look]:
    """Run it; return looks at the driver, from the first batch to the last."""
    process, looks = psutil.Process(), []
    every = max(1, run.plan.num_images // LOOKS)
    for progress in execute(run):
        last = progress.drawn == run.plan.num_images and not progress.complete
        if not looks or progress.drawn - looks[-1].images >= every or last:
            mib, cpu = process.memory_info().rss / 2**20, sum(process.cpu_times()[:2])
            looks.append(Look(progress.drawn, time.perf_counter(), mib, cpu))
            print(f"  {progress.drawn} {mib:.0f} MiB", file=sys.stderr, flush=True)
    return looks


def tell(looks: list[Look], batches: int) -> None:
    """Print the tenths, the slopes and the ratio of the ends."""
    total = looks[-1].images
    at = {k: min(looks, key=lambda look: abs(look.images - total * k / 10)) for k in range(11)}
    rates = []
    for k in range(10):
        begin, end = at[k], at[k + 1]
        rates.append((end.images - begin.images) / (end.seconds - begin.seconds))
        print(f"tenth {k + 1:2}: {rates[-1]:7.0f} images/s, driver {end.mib:.0f} MiB")
    for name, part in (("whole run", looks), ("from the second tenth on", _since(looks, at[1]))):
        slope = np.polyfit([p.images for p in part], [p.mib for p in part], 1)[0] * 10_000
        print(f"memory slope, {name}: {slope:.3f} MiB per 10,000 images (bar 1)")
    print(f"last tenth / first: {rates[-1] / rates[0]:.3f} (bar 0.95)")
    print(f"mean of the last three / the first three: {sum(rates[-3:]) / sum(rates[:3]):.3f}")
    cpu = (looks[-1].cpu_seconds - looks[0].cpu_seconds) / batches * 1000
    print(f"the driver's own CPU: {cpu:.1f} ms a batch")
    print(f"{total / (looks[-1].seconds - looks[0].seconds):.0f} images/s over the whole run")


def _since(looks: list[Look], first: Look) -> list[Look]:
    return [look for look in looks if look.images >= first.images]


def tell_catalog(run: Run) -> None:
    """Print what lies on disk, that nothing is lost or doubled, and how long a restart looks."""
    begun = time.perf_counter()
    catalog = Catalog(run.place.uri)
    rows = sql(
        catalog,
        "SELECT count(*) AS n, count(DISTINCT recipe_digest || recipe_index) AS ids FROM samples",
    ).to_pylist()[0]
    print(f"rows {rows['n']}, distinct {rows['ids']}, read in {time.perf_counter() - begun:.1f} s")
    begun = time.perf_counter()
    again = [progress.complete for progress in execute(run)]
    print(f"submitted again: {again}, {time.perf_counter() - begun:.1f} s")
    state = run_states(Catalog(run.place.uri))[0]
    files = [p for p in Path(run.place.uri).rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    log = sum(p.stat().st_size for p in files if p.parent.name == "_delta_log")
    print(f"{state.status} {state.published}; commits {catalog.version}")
    print(f"{len(files)} files of {size} bytes, {log} of them in logs")


@click.command()
@click.option("--num-images", default=1_000_000, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Kept; else one that is removed.")
def main(num_images: int, batch_size: int, folder: Path | None) -> None:
    """Run once and print."""
    stream.SampleActor = FreeActor  # type: ignore[misc]
    place = folder or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "tiny").exists():
        tiny_generator(place / "tiny", size_px=SIZE_PX)
    run = job(place, num_images, batch_size)
    try:
        with ray_session():
            looks = watch(run)
        tell(looks, run.plan.num_batches)
        tell_catalog(run)
    finally:
        if folder is None:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
