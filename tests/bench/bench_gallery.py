"""What a gallery costs over a million images: its start, and pages of 200 thumbnails.

    OMP_NUM_THREADS=1 python tests/bench/bench_gallery.py --rows 1000000

Prints medians (least..most, n) and asserts nothing. The catalog is made once into --folder.
"""

import argparse
import base64
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import SampleSink, record_model, record_run, write_batch
from catalog.gallery.app import Gallery, application, application_of
from catalog.gallery.guard import App, Guard
from catalog.gallery.index import Index
from tests.bench.timing import alternate, peak_mib, seconds, told
from tests.fakes.browser import CHROMIUM, Browser, browser
from tests.fakes.gallery import served
from tests.fakes.rows import CLASSES, model_row, rows_table, run_row, sample_row

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
    """Print what the start and every kind of page costs, pictures read anew each time."""
    begun, used = time.perf_counter(), time.process_time()
    index = Index(str(uri))
    took, cpu = time.perf_counter() - begun, time.process_time() - used
    print(f"start: {took:.1f} s, {cpu:.1f} s of CPU; peak memory {peak_mib():.0f} MiB")
    gallery = Gallery(index=index)
    client = TestClient(application_of(gallery), base_url="http://127.0.0.1")
    middle = index.ask("SELECT run_id || '/' || image_id AS k FROM images WHERE place = 500000")
    pages = {
        "overview": "/",
        "first page": "/images",
        "page from the middle on": f"/images?after={middle[0]['k']}"
        if middle
        else "/images?sort=oldest",
        "class, guidance and score": "/images?class=monocyte&guidance_min=2.5&blank_max=0.4",
        "rejected by blur": "/images?reason=blur",
        "sorted by a score (200 files)": "/images?sort=blur",
        "scores of all (histograms)": "/gates",
    }
    for name, address in pages.items():
        client.get(address)
        found = [visit(client, gallery, address) for _ in range(ROUNDS)]
        print(told(name, [wall for wall, _ in found], "s"))
        print(told("    CPU", [cpu for _, cpu in found], "s"))
    if CHROMIUM:
        browse(index)


def visit(client: TestClient, gallery: Gallery, address: str) -> tuple[float, float]:
    """Return wall and CPU seconds of one page without any thumbnail at hand."""
    gallery.thumbnails.forget()
    used = time.process_time()
    wall = seconds(lambda: client.get(address).raise_for_status())
    return wall, time.process_time() - used


def browse(index: Index) -> None:
    """Print how long Chromium takes for a page: pictures inside it, or each by a request."""
    whole = application(index)
    with browser() as tab, served(whole) as inside, served(routed(whole)) as apart:
        tab.steps(("go", inside), ("go", apart))
        both = alternate(lambda: loaded(tab, inside), lambda: loaded(tab, apart), rounds=ROUNDS)
    print(told("in Chromium, pictures inside the page", both[0], "s"))
    print(told("in Chromium, a request for each picture", both[1], "s"))


def loaded(tab: Browser, address: str) -> float:
    """Return seconds from asking for a page until all of it is loaded."""
    tab.steps(("go", "about:blank"))
    clock = "performance.timing.loadEventEnd - performance.timing.navigationStart"
    settled = f"new Promise(done => setTimeout(() => done({clock}), 50))"
    return float(tab.steps(("go", address), ("read", settled))[0]) / 1000


def routed(app: App) -> App:
    """Return the same pages with pictures by a request each, from memory."""
    kept: list[bytes] = []

    def page(request: Request) -> Response:
        text = TestClient(app, base_url="http://127.0.0.1").get("/").text
        kept[:] = map(base64.b64decode, re.findall(r"data:image/png;base64,([^\"]+)", text))
        numbers = iter(range(len(kept)))
        return HTMLResponse(
            re.sub(r"data:image/png;base64,[^\"]+", lambda _: f"/thumb/{next(numbers)}", text)
        )

    def thumb(request: Request) -> Response:
        return Response(kept[request.path_params["n"]], media_type="image/png")

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        text = TestClient(app, base_url="http://127.0.0.1").get(f"/static/{name}")
        return Response(text.content, media_type=text.headers["content-type"])

    routes = [Route("/", page), Route("/thumb/{n:int}", thumb), Route("/static/{name}", static)]
    return Guard(Starlette(routes=routes), host="127.0.0.1", token=None)


if __name__ == "__main__":
    main()
