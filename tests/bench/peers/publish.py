"""Publish the same images: our sink, Hugging Face datasets, WebDataset, Daft, Ray Data.

    python -m tests.bench.peers.publish --peers-python PEERS/bin/python

Peers live in an environment of their own, made once:

    python -m venv PEERS
    PEERS/bin/pip install datasets webdataset daft pyiceberg 'ray[data]' deltalake pyarrow pillow

Every writer is a process of its own, one at a time; all start from the same PNG bytes in memory.
Then each is killed when half of its images were handed over, given the same command again, and,
complete, once more: what was lost, doubled or made anew is counted by reading it back.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from tests.bench.peers.processes import LOOK_SECONDS, Family
from tests.bench.peers.tables import print_table, ranged, ratios

ROOT = Path(__file__).parents[3]
WRITERS = Path(__file__).parent / "writers"
OURS = "our sink"
DISTINCT = 256
"""PNGs that are made; all images are copies of these bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A script and the way it is to write."""

    name: str
    script: str
    form: str


WRITERS_OF_PEERS = (
    Writer(name="datasets, save_to_disk", script="hugging_face.py", form="save_to_disk"),
    Writer(name="datasets, to_parquet", script="hugging_face.py", form="to_parquet"),
    Writer(name="WebDataset, ShardWriter", script="web_dataset.py", form="tar"),
    Writer(name="Daft, write_deltalake", script="daft_frame.py", form="write_deltalake"),
    Writer(name="Daft, write_parquet", script="daft_frame.py", form="write_parquet"),
    Writer(name="Ray Data, write_delta", script="ray_data.py", form="write_delta"),
    Writer(name="Ray Data, write_parquet", script="ray_data.py", form="write_parquet"),
)
OUR_WRITER = Writer(name=OURS, script="factory_sink.py", form="sink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One call of a writer."""

    seconds: float | None
    """Of writing alone; None: it was killed."""
    cpu_seconds: float
    """Of its whole process and all that it started, imports included."""
    handed: int
    """Images that it asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """What a kill at half, and the same command after it, leave."""

    seen: str
    """By a reader after the kill: rows, or the error that it meets."""
    lost: int
    twice: int
    again: int
    """Images that had to be made a second time."""
    twice_when_complete: int
    """Rows there twice after the command was given once more to a complete data set."""
    extra_mib: float
    """On disk beyond what the same images take without a kill."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things lie, and who runs what."""

    place: Path
    peers_python: str | None

    def command(self, writer: Writer, folder: Path) -> list[str]:
        """Return how a writer is started on `folder`."""
        python = sys.executable if writer is OUR_WRITER else str(self.peers_python)
        return [python, str(WRITERS / writer.script), str(folder), "--form", writer.form]

    def run(
        self, writer: Writer, folder: Path, images: int, *, kill_at: int | None = None
    ) -> Written:
        """Write into `folder`, which may hold an earlier attempt."""
        folder.mkdir(parents=True, exist_ok=True)
        progress = self.place / "progress"
        progress.write_bytes(b"")
        command = self.command(writer, folder)
        command += ["--images", str(images), "--pngs", str(self.place / "pngs")]
        command += ["--progress", str(progress)]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(
                command, stdout=output, stderr=errors, cwd=self.place, env=_environment()
            )
            family = Family(child.pid)
            while child.poll() is None:
                family.look()
                if kill_at is not None and progress.stat().st_size >= kill_at:
                    child.kill()
                time.sleep(LOOK_SECONDS)
            family.end()
            output.seek(0), errors.seek(0)
            said, wrong = output.read().decode(), errors.read().decode()
        handed = progress.stat().st_size
        if child.returncode == -9 and kill_at is not None:
            return Written(seconds=None, cpu_seconds=family.cpu_seconds, handed=handed)
        if child.returncode:
            raise click.ClickException(
                f"{writer.name} ended with {child.returncode}: {wrong[-2000:]}"
            )
        seconds = json.loads(said.splitlines()[-1])["seconds"]
        return Written(seconds=seconds, cpu_seconds=family.cpu_seconds, handed=handed)

    def read(self, writer: Writer, folder: Path) -> dict[str, object]:
        """Return rows, distinct ids and the error of a reader of that format."""
        done = subprocess.run(
            [*self.command(writer, folder), "--read"],
            check=True, capture_output=True, text=True, cwd=self.place, env=_environment(),
        )  # fmt: skip
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def killed(self, writer: Writer, images: int) -> Killed:
        """Kill it at half, read, give the same command again, read; and once more."""
        clean, folder = self.place / "clean", self.place / "killed"
        self.run(writer, clean, images)
        usual = _bytes(clean)
        shutil.rmtree(clean)
        first = self.run(writer, folder, images, kill_at=images // 2)
        seen = self.read(writer, folder)
        second = self.run(writer, folder, images)
        found, extra = self.read(writer, folder), _bytes(folder) - usual
        self.run(writer, folder, images)
        complete = self.read(writer, folder)
        shutil.rmtree(folder)
        return Killed(
            seen=_seen(seen) if first.seconds is None else "not killed: too few images",
            lost=images - int(str(found["distinct"])),
            twice=int(str(found["rows"])) - int(str(found["distinct"])),
            again=first.handed + second.handed - images,
            twice_when_complete=int(str(complete["rows"])) - int(str(complete["distinct"])),
            extra_mib=extra / 2**20,
        )


def _environment() -> dict[str, str]:
    """Ray's workers at the niceness of the rest; nothing is fetched."""
    quiet = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}


def _seen(read: dict[str, object]) -> str:
    return (
        f"an error ({str(read['error']).split(':')[0]})" if read["error"] else f"{read['rows']:,}"
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_pngs(folder: Path, *, size_px: int = 64, count: int = DISTINCT) -> None:
    """Write `count` noisy PNGs: a smooth patch with grain of 4 bits, as large as a drawn cell's."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(60, 200, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))
        noisy = smooth + rng.integers(0, 16, smooth.shape, np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "PNG", compress_level=1)
        (folder / f"{number:04d}.png").write_bytes(buffer.getvalue())


def bench_rates(bench: Bench, writers: Sequence[Writer], images: int, rounds: int) -> None:
    """Print images/s, CPU seconds and bytes of every writer, in turn within each round."""
    rates: dict[str, list[float]] = {writer.name: [] for writer in writers}
    cpu: dict[str, list[float]] = {writer.name: [] for writer in writers}
    size: dict[str, int] = {}
    for _ in range(rounds):
        for writer in writers:
            folder = bench.place / "fresh"
            written = bench.run(writer, folder, images)
            if written.seconds is None:
                raise click.ClickException(f"{writer.name} was killed by somebody else")
            rates[writer.name].append(images / written.seconds)
            cpu[writer.name].append(written.cpu_seconds)
            size[writer.name] = _bytes(folder)
            shutil.rmtree(folder)
            print(f"  {writer.name}: {images / written.seconds:.0f} images/s", file=sys.stderr)
    rows = []
    for name, own in rates.items():
        cells = [name, ranged(own, "{:,.0f}"), ranged(ratios(rates[OURS], own), "{:.2f}")]
        cells += [ranged(cpu[name], "{:.1f}"), ranged(ratios(cpu[name], cpu[OURS]), "{:.2f}")]
        rows.append([*cells, f"{size[name] / 2**20:,.0f}"])
    print(f"\n{images:,} images, {rounds} rounds; medians (ranges)\n")
    print_table(["writer", "images/s", "ours / it", "CPU s", "its / ours", "MiB on disk"], rows)


def bench_kills(bench: Bench, writers: Sequence[Writer], images: int) -> None:
    """Print what a kill leaves of every writer."""
    rows = []
    for writer in writers:
        found = bench.killed(writer, images)
        rows.append([writer.name, found.seen, f"{found.lost:,}", f"{found.twice:,}",
                     f"{found.again:,}", f"{found.extra_mib:,.1f}",
                     f"{found.twice_when_complete:,}"])  # fmt: skip
        print(f"  {writer.name}: {found}", file=sys.stderr)
    print(f"\n{images:,} images, SIGKILL when {images // 2:,} were handed over\n")
    heads = ["writer", "a reader then sees", "lost after the same command", "there twice",
             "made again", "MiB left over", "there twice after a third command"]  # fmt: skip
    print_table(heads, rows)


@click.command()
@click.option("--images", default=100_000, show_default=True)
@click.option("--kill-images", default=20_000, show_default=True, help="0: nothing is killed.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--peers-python", help="Python of the peers' environment; else ours alone is run.")
@click.option("--only", multiple=True, help="Peers whose name has this in it.")
@click.option("--folder", type=click.Path(path_type=Path), help="A fast disk; else a temporary.")
def main(
    images: int, kill_images: int, rounds: int, peers_python: str | None, only: tuple[str, ...],
    folder: Path | None,
) -> None:  # fmt: skip
    """Print two tables."""
    writers = [OUR_WRITER]
    if peers_python is None:
        print("peers are skipped: no --peers-python (how to make one stands in this file)")
    else:
        peers_python = str(Path(peers_python).absolute())
        writers += [w for w in WRITERS_OF_PEERS if not only or any(o in w.name for o in only)]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bench = Bench(Path(name), peers_python)
        make_pngs(bench.place / "pngs")
        sizes = [path.stat().st_size for path in (bench.place / "pngs").iterdir()]
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
              f" PNGs of {statistics.mean(sizes):.0f} bytes on average")  # fmt: skip
        if rounds:
            bench_rates(bench, writers, images, rounds)
        if kill_images:
            bench_kills(bench, writers, kill_images)


if __name__ == "__main__":
    main()
