"""What a gallery costs over a million images: its start, and pages of 200 thumbnails.

    OMP_NUM_THREADS=1 python tests/bench/bench_gallery.py --rows 1000000 --folder /tmp/bench

Prints medians (least..most, n) and asserts nothing. The catalog is made once into --folder.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import SampleSink, record_model, record_run, write_batch
from tests.bench.timing import peak_mib, seconds, told
from tests.fakes.rows import CLASSES, STARTED, model_row, run_row, rows_table, sample_row

BATCH = 256
RUNS = 4
GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0)
FILES_PER_COMMIT = 100
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    parser.add_argument("--size-px", type=int, default=32)
    options = parser.parse_args()
    uri = options.folder / f"gallery-{options.rows}-{options.size_px}"
    print(f"cores {os.cpu_count()}, rows {options.rows}, {options.size_px} px")
    if not (uri / "done").exists():
        fill(uri, options.rows, options.size_px)
    measure(uri)


def fill(uri: Path, rows: int, size_px: int) -> None:
    """Publish `rows` rows in `RUNS` runs: a class and a guidance per batch, random scores."""
    shutil.rmtree(uri, ignore_errors=True)
    started = time.perf_counter()
    pictures = [drawing(number, size_px) for number in range(64)]
    count = -(-rows // BATCH // RUNS)
    record_model(uri, model_row())
    for run in range(RUNS):
        run_id, files = f"run-bench-{run}", []
        sink = SampleSink(uri, run_id)
        for index in range(count):
            number = run * count + index
            size = min(BATCH, rows - number * BATCH)
            if size > 0:
                table = batch(number, index, size, pictures)
                files.append(write_batch(uri, run_id=run_id, batch_index=index, rows=table))
            if files and (len(files) == FILES_PER_COMMIT or index == count - 1):
                sink.commit(files)
                files = []
        record_run(uri, run_row(run_id, 1, num_requested=count * BATCH))
    (uri / "done").write_text("")
    print(f"filled in {time.perf_counter() - started:.0f} s")


def drawing(number: int, size_px: int) -> dict[str, bytes]:
    """A round object on a rough ground and its mask, as PNG."""
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[:size_px, :size_px] - size_px / 2
    inside = ys**2 + xs**2 < (size_px / 3) ** 2
    ground = rng.normal(200, 8, (size_px, size_px, 3))
    pixels = np.where(inside[..., None], rng.integers(40, 160, 3), ground).clip(0, 255)
    return {"image": png_of(pixels.astype(np.uint8)), "mask": png_of(inside.astype(np.uint8))}


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def batch(number: int, index: int, size: int, pictures: list[Mapping[str, bytes]]) -> pa.Table:
    """Batch `number` of all, `index` of its run; even ones have masks, some rows are rejected."""
    rng = np.random.default_rng(number)
    class_id = number % len(CLASSES)
    ids = [f"{part:016x}{number:08x}{x:08x}" for x, part in enumerate(rng.integers(0, 2**62, size))]
    blurred = rng.random(size) < 0.05
    chosen = rng.integers(0, len(pictures), size)
    table = pa.concat_tables([rows_table([sample_row(0)])] * size)
    columns = {
        "image_id": ids,
        "recipe_index": np.arange(index * size, (index + 1) * size),
        "recipe_digest": [f"{class_id:032x}"] * size,
        "seed": rng.integers(0, 2**63, size),
        "class_name": [CLASSES[class_id]] * size,
        "class_id": np.full(size, class_id, np.int32),
        "guidance_scale": np.full(size, GUIDANCES[number // len(CLASSES) % len(GUIDANCES)]),
        "blank_score": rng.random(size),
        "range_score": rng.random(size),
        "blur_score": rng.random(size),
        "agreement_score": rng.random(size),
        "batch_slot": (np.arange(size) % 256).astype(np.int16),
        "gate_status": np.where(blurred, "rejected", "accepted").tolist(),
        "gate_reasons": [["blur: sharpness 0.01 below 0.02"] if b else [] for b in blurred],
    }
    columns["image"] = [
        {"bytes": pictures[c]["image"], "path": f"{i}.png"}
        for c, i in zip(chosen, columns["image_id"], strict=True)
    ]
    if number % 2 == 0:
        columns["mask"] = [
            {"bytes": pictures[c]["mask"], "path": f"{i}-mask.png"}
            for c, i in zip(chosen, columns["image_id"], strict=True)
        ]
    for name, values in columns.items():
        place, kind = table.column_names.index(name), table.schema.field(name).type
        table = table.set_column(place, name, pa.array(values, kind))
    return table


def measure(uri: Path) -> None:
    pass


if __name__ == "__main__":
    main()
