"""What a catalog costs: filters on a million rows, restart on a large table, commits, import.

    OMP_NUM_THREADS=1 python tests/bench/bench_catalog.py --rows 1000000 --batch 256

Prints medians of five and ratios; asserts nothing. Tables are drawn once into --folder and reused.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import Catalog, SampleSink, sql, write_batch
from catalog.query import files_scanned
from tests.fakes.rows import CLASSES, batch_rows, png

FILTER = (
    "SELECT count(*) AS n, avg(blur_score) AS blur FROM samples WHERE class_name = 'monocyte' "
    "AND guidance_scale > 2.5 AND blank_score BETWEEN 0.2 AND 0.4 AND gate_status = 'accepted'"
)
GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0)
FILES_PER_COMMIT = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=256, help="rows per file of the large table")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(restart(options.probe)))
        return
    print(f"cores {os.cpu_count()}, rows {options.rows}, rows per file {options.batch}")
    large = options.folder / f"large-{options.rows}-{options.batch}"
    fill(large, options.rows, options.batch)
    bench_filter(large)
    tables = {rows: options.folder / f"restart-{rows}" for rows in (10_000, 100_000)}
    for rows, folder in tables.items():
        fill(folder, rows, 16)
    bench_restart(tables)
    bench_commit(options.folder / "commit")
    bench_import()


def fill(uri: Path, rows: int, size: int) -> None:
    """Publish `rows` rows of one run: a class and a guidance per batch, random scores."""
    done = uri / "done"
    if done.exists():
        return
    started = time.perf_counter()
    sink = SampleSink(uri, "run-bench")
    held, files = sink.published(), []
    for index in range(rows // size):
        if index in held:
            continue
        table = bench_rows(index, size)
        files.append(write_batch(uri, run_id="run-bench", batch_index=index, rows=table))
        if len(files) == FILES_PER_COMMIT:
            sink.commit(files)
            files = []
    sink.commit(files)
    done.write_text("")
    print(f"  filled {uri.name} in {time.perf_counter() - started:.0f} s")


def bench_rows(index: int, size: int) -> pa.Table:
    """Batch `index`: as `batch_rows`, made column-wise."""
    table = pa.concat_tables([batch_rows(0, size=1)] * size)
    rng = np.random.default_rng(index)
    class_id = index % len(CLASSES)
    numbers = np.arange(index * size, (index + 1) * size)
    columns = {
        "image_id": [f"{x:032x}" for x in numbers],
        "recipe_index": numbers,
        "seed": rng.integers(0, 2**63, size),
        "class_name": [CLASSES[class_id]] * size,
        "class_id": np.full(size, class_id, np.int32),
        "guidance_scale": np.full(size, GUIDANCES[index // len(CLASSES) % len(GUIDANCES)]),
        "blank_score": rng.random(size),
        "range_score": rng.random(size),
        "blur_score": rng.random(size),
        "image": [{"bytes": png(0), "path": f"{x:032x}.png"} for x in numbers],
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, [pa.array(values)])
    return table


def bench_filter(uri: Path) -> None:
    opened = timed(lambda: Catalog(uri).samples(), repeats=5)
    catalog = Catalog(uri)
    catalog.samples()
    warm = timed(lambda: sql(catalog, FILTER), repeats=5)
    cold = timed(lambda: sql(Catalog(uri), FILTER), repeats=5)
    scanned, every = files_scanned(catalog, FILTER)
    matched = sql(catalog, FILTER)["n"][0].as_py()
    whole = timed(lambda: catalog.samples().to_table(columns=["class_name"]), repeats=1)
    print(f"open and list {every} files: {opened * 1e3:.0f} ms")
    print(f"filter (class, guidance, score): {matched} rows, warm {warm * 1e3:.0f} ms, ", end="")
    print(f"with opening {cold * 1e3:.0f} ms; one column unfiltered {whole * 1e3:.0f} ms")
    print(f"files skipped: {every - scanned} of {every} = {1 - scanned / every:.1%}")


def bench_restart(tables: dict[int, Path]) -> None:
    found = {}
    for rows, uri in tables.items():
        runs = [probe(uri) for _ in range(5)]
        found[rows] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"restart on {rows} rows ({found[rows]['batches']:.0f} files): open + published "
            f"{found[rows]['seconds'] * 1e3:.0f} ms, peak memory {found[rows]['peak_mib']:.0f} MiB"
        )
    small, large = (found[rows] for rows in sorted(tables))
    print(f"memory ratio 100,000 / 10,000 rows: {large['peak_mib'] / small['peak_mib']:.3f}")


def probe(uri: Path) -> dict[str, float]:
    """Run `restart` in a fresh process: peak memory is a process's."""
    command = [sys.executable, __file__, "--probe", str(uri)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def restart(uri: Path) -> dict[str, float]:
    started = time.perf_counter()
    held = SampleSink(uri, "run-bench").published()
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # ru_maxrss counts the parent's memory too
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"seconds": seconds, "peak_mib": peak, "batches": len(held)}


def bench_commit(uri: Path) -> None:
    run = f"run-{time.time_ns()}"
    sink = SampleSink(uri, run)
    tables = [bench_rows(i, 16) for i in range(60)]
    files, write = [], []
    for index, table in enumerate(tables):
        started = time.perf_counter()
        files.append(write_batch(uri, run_id=run, batch_index=index, rows=table))
        write.append(time.perf_counter() - started)
    commits = []
    for first in range(0, len(files), 4):
        started = time.perf_counter()
        sink.commit(files[first : first + 4])
        commits.append(time.perf_counter() - started)
    print(
        f"write_batch of 16 rows: {statistics.median(write) * 1e3:.1f} ms (n {len(write)}); ",
        end="",
    )
    print(f"commit of 4 batches: {statistics.median(commits) * 1e3:.1f} ms (n {len(commits)})")


def bench_import() -> None:
    def load(statement: str) -> float:
        return timed(
            lambda: subprocess.run([sys.executable, "-c", statement], check=True), repeats=5
        )

    bare, lazy, used = load("pass"), load("import catalog"), load("from catalog import Catalog")
    arrow = load("import pyarrow.dataset, deltalake")
    print(
        f"over python's start of {bare * 1e3:.0f} ms: import catalog {(lazy - bare) * 1e3:.0f} ms, "
        f"first use {(used - bare) * 1e3:.0f} ms, of which pyarrow.dataset and deltalake "
        f"{(arrow - bare) * 1e3:.0f} ms"
    )


def timed(work: Callable[[], object], *, repeats: int) -> float:
    """Return the median wall time of `repeats` calls, seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
