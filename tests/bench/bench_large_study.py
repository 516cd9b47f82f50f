"""What a study of more images than fit into memory holds: its peak, and where its time goes.

    python -m tests.bench.bench_large_study [--num-images 75000] [--size-px 384]
        [--learner classify|probe] [--folder FOLDER]

As many drawn images as CytoDiff's 15 classes of 5,000, beside 600 real ones, through `factory
evaluate` in a process of its own. The pictures are patches of colour: they decode and resize as
others do. The peak is that of resident memory, of the command and all that it starts together.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from catalog import SampleSink, write_batch
from factory.real.splits import Split, load_split
from tests.fakes.rows import rows_table, sample_row

CLASSES = tuple(f"class_{n:02}" for n in range(15))
REAL, BATCH = 600, 250
FACTORY = (sys.executable, "-m", "factory.cli")
LEARNERS = {
    "classify": {"backbone": "resnet18", "steps": 8, "batch_size": 16, "validate_every": 8},
    "probe": {"task": "probe", "backbone": "colours", "turns": 1, "drawn_turns": 1},
}


def picture(number: int, size_px: int) -> bytes:
    """Return a PNG of patches of colour; its class is seen in its hue."""
    rng = np.random.Generator(np.random.Philox(number))
    tint = np.array([number % 15, number % 5 * 3, number % 3 * 5]) * 12
    patches = rng.integers(0, 70, (12, 12, 3)) + tint
    shown, buffer = Image.fromarray(patches.astype(np.uint8)), BytesIO()
    shown.resize((size_px, size_px), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_real(folder: Path, size_px: int) -> None:
    """Write the real images as a Parquet file."""
    folder.mkdir(parents=True)
    rows = [
        {"image": {"bytes": picture(n, size_px)}, "image_id": f"real-{n}", "class": CLASSES[n % 15]}
        for n in range(REAL)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "real.parquet")


def drawn_batches(count: int, size_px: int, split: Split) -> Iterator[pa.Table]:
    """Yield the rows of a catalog, by a generator that learnt under the split."""
    known = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    known |= {"class_names": list(CLASSES), "height_px": size_px, "width_px": size_px}
    for start in range(0, count, BATCH):
        rows = []
        for number in range(start, min(start + BATCH, count)):
            own = number % len(CLASSES)
            row = sample_row(number, class_name=CLASSES[own], class_id=own, **known)
            row["soft_label"] = [float(own == other) for other in range(len(CLASSES))]
            name = f"{row['image_id']}.png"
            row["image"] = {"bytes": picture(REAL + number, size_px), "path": name}
            rows.append(row)
        yield rows_table(rows)


def peak_of(words: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the GiB that it and its children held at most."""
    begun, most = time.perf_counter(), 0
    with subprocess.Popen(words) as process:
        whole = psutil.Process(process.pid)
        while process.poll() is None:
            held = 0
            for each in (whole, *whole.children(recursive=True)):
                try:
                    held += each.memory_info().rss
                except psutil.Error:
                    continue
            most = max(most, held)
            time.sleep(0.2)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - begun, most / 2**30


@click.command(context_settings={"show_default": True})
@click.option("--num-images", default=75_000)
@click.option("--size-px", default=384)
@click.option("--learner", type=click.Choice(list(LEARNERS)), default="classify")
@click.option("--folder", type=click.Path(path_type=Path), help="Is kept: more learners read it.")
def main(num_images: int, size_px: int, learner: str, folder: Path | None) -> None:
    """Write the images, study them, tell the peak."""
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        real, split, catalog = place / "real", place / "split.json", place / "catalog"
        if not split.exists():
            write_real(real, size_px)
            asked = [*FACTORY, "real", "split", str(real), "--out", str(split)]
            subprocess.run(asked, check=True)
            sink, begun = SampleSink(catalog, "run-1"), time.perf_counter()
            batches = drawn_batches(num_images, size_px, load_split(split))
            for number, rows in enumerate(batches):
                sink.commit([write_batch(catalog, run_id="run-1", batch_index=number, rows=rows)])
            print(f"written {time.perf_counter() - begun:.0f} s")
        config = place / f"{learner}.yaml"
        arms = {"real": {"design": "real"}}
        arms["mixed"] = {"design": "add", "per_class": num_images // len(CLASSES)}
        told = {"name": "large", "learner": LEARNERS[learner] | {"size_px": size_px}, "arms": arms}
        config.write_text(json.dumps(told | {"seeds": [0, 1]}))
        words = [*FACTORY, "evaluate", "--config", str(config), "--data", str(real)]
        words += ["--split", str(split), "--catalog", str(catalog), "--without-ray"]
        with tempfile.TemporaryDirectory(dir=place) as output:
            seconds, peak = peak_of([*words, "--output", output])
    pixels = num_images * size_px**2 * 3 / 2**30
    print(f"{learner}: {num_images} images of {size_px} px, {pixels:.1f} GiB of pixels")
    print(f"peak {peak:.2f} GiB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
