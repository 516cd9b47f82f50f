"""What the map costs, and neighbours: 100,000 images to a first picture, a million to the nearest.

    OMP_NUM_THREADS=1 python tests/bench/bench_map.py --rows 100000 --neighbours 1000000

Prints medians (least..most, n), ratios within this run, and asserts nothing. Features are
synthetic: vectors around a few hundred looks. The catalog is made once into --folder.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import Catalog
from catalog.embed import PIECE, _Store
from catalog.features import fit_map
from catalog.gallery.app import Gallery, application, application_of
from catalog.gallery.filters import Filters
from catalog.gallery.index import Index
from catalog.gallery.map import points_of
from factory.measure.near import Axes, Codes, Vectors, farthest_first
from factory.measure.rings import RingSpace
from tests.bench.bench_gallery import fill
from tests.bench.timing import alternate, peak_mib, seconds, told
from tests.fakes.browser import CHROMIUM, Browser, browser
from tests.fakes.gallery import served

WIDTH, LOOKS = 240, 300
ROUNDS = 7
ASKED, NEAREST = 50, 10


class Synthetic:
    """Vectors that any number of images may have: around some looks, mostly along few axes."""

    name, digest = "rings", RingSpace.digest

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        # 98 % of the variance along 64 axes, as measured of ring spectra of white blood cells
        self.fall = ((1 + np.arange(WIDTH)) ** -0.85).astype(np.float32)
        self.looks = (rng.normal(0, 1, (LOOKS, WIDTH)) * self.fall).astype(np.float32)

    def vectors(self, count: int, seed: int) -> Vectors:
        """Return (count, WIDTH)."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((count, WIDTH), np.float32) * self.fall * np.float32(0.35)
        return self.looks[rng.integers(0, LOOKS, count)] + noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--neighbours", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    options = parser.parse_args()
    print(f"cores {os.cpu_count()}, threads of numpy {os.environ.get('OMP_NUM_THREADS', 'all')}")
    neighbours(options.neighbours)
    uri = options.folder / f"map-{options.rows}"
    if not (uri / "mapped").exists():
        fill(uri, options.rows, 32)
        features(uri)
    on_map(uri)


def neighbours(count: int) -> None:
    """Print what the nearest of one among `count` cost, and what they would by whole vectors."""
    space = Synthetic()
    begun = time.perf_counter()
    axes = Axes.of(space.vectors(20_000, 1))
    fitted = time.perf_counter() - begun
    parts, whole = [], np.empty((count, WIDTH), np.float32)
    coded = 0.0
    for start in range(0, count, 1 << 16):
        some = space.vectors(min(1 << 16, count - start), 2 + start)
        whole[start : start + len(some)] = some
        coded += seconds(lambda v=some: parts.append(Codes.of(axes(v), axes.spread)))
    codes = Codes.joined(parts)
    size = (codes.codes.nbytes + codes.squares.nbytes) / 2**20
    print(f"axes of 20,000 vectors of {WIDTH}: {fitted:.2f} s; codes of {count}: {coded:.1f} s,"
          f" {size:.0f} MiB (vectors {whole.nbytes / 2**20:.0f} MiB)")  # fmt: skip
    squares = np.einsum("nd,nd->n", whole, whole)

    def exact(row: int) -> set[int]:
        scores = squares - 2 * (whole @ whole[row])
        return set(np.argpartition(scores, NEAREST)[: NEAREST + 1].tolist()) - {row}

    def near(row: int) -> set[int]:
        return set(codes.nearest(codes.placed(row), NEAREST + 1)[0].tolist()) - {row}

    rows = np.random.default_rng(9).integers(0, count, ASKED).tolist()
    hits = sum(len(exact(row) & near(row)) for row in rows)
    own, all_axes = alternate(
        lambda: seconds(lambda: near(rows[0])), lambda: seconds(lambda: exact(rows[0])),
        rounds=ROUNDS,
    )  # fmt: skip
    print(told(f"nearest {NEAREST} of {count}, codes", own, "s"))
    print(told(f"nearest {NEAREST} of {count}, vectors", all_axes, "s"))
    print(f"ratio {np.median(all_axes) / np.median(own):.1f}, recall@{NEAREST}"
          f" {hits / NEAREST / ASKED:.3f} over {ASKED} images")  # fmt: skip
    placed = axes(whole[:100_000])
    print(
        told("100 images that cover 100,000", [seconds(lambda: farthest_first(placed, 100))], "s")
    )


def features(uri: Path) -> None:
    """Store synthetic features of every image."""
    space = Synthetic()
    begun = time.perf_counter()
    store = _Store(uri, space)
    for number, ids in enumerate(pieces(uri)):
        store.add(ids, space.vectors(len(ids), number))
    stored = time.perf_counter() - begun
    fit_map(uri, space.digest, now=datetime.now(UTC), code_version="bench")
    print(f"features stored in {stored:.0f} s, map fitted in"
          f" {time.perf_counter() - begun - stored:.1f} s")  # fmt: skip
    (uri / "mapped").write_text("")


def pieces(uri: Path) -> Iterator[list[str]]:
    ids: list[str] = []
    for batch in Catalog(str(uri)).samples().to_batches(columns=["image_id"]):
        ids += batch.column(0).to_pylist()
        while len(ids) >= 8 * PIECE:
            yield ids[: 8 * PIECE]
            del ids[: 8 * PIECE]
    yield ids


def on_map(uri: Path) -> None:
    """Print what the page of the map and its points cost, and the neighbours of an image."""
    index = Index(str(uri))
    count = index.ask("SELECT count(*) AS n FROM images")[0]["n"]
    gallery = Gallery(index=index)
    client = TestClient(application_of(gallery), base_url="http://127.0.0.1")

    def page() -> int:
        return len(client.get("/map").content) + len(client.get("/map/points").content)

    print(f"map of {count}: at the first question {seconds(page):.2f} s, {page() / 2**20:.2f} MiB")
    view = index.newest()
    ours, others = alternate(
        lambda: seconds(lambda: points_of(index, view, Filters())),
        lambda: seconds(lambda: as_json(index)), rounds=ROUNDS,
    )  # fmt: skip
    print(told("page and points afterwards", [seconds(page) for _ in range(ROUNDS)], "s"))
    print(told("points as bytes", ours, "s"))
    print(told("points as JSON", others, "s"))
    small, large = len(points_of(index, view, Filters())), len(as_json(index))
    print(f"ratio of times {np.median(others) / np.median(ours):.1f}, of bytes {large / small:.1f}")
    row = index.ask("SELECT run_id, image_id FROM images WHERE place = ?", [count // 2])[0]
    near = [
        seconds(lambda: index.points.nearest(view, Filters(), row["image_id"], 8))
        for _ in range(ROUNDS)
    ]
    print(told("its 8 neighbours, rows and all", near, "s"))
    if CHROMIUM:
        with browser() as tab, served(application(index)) as address:
            looked = [first_picture(tab, address) for _ in range(ROUNDS)]
            frames = tab.steps(("read", FRAMES))[0]
        print(told("in Chromium, from asking to the first picture", looked, "s"))
        print(told("in Chromium, a frame of moving", [each / 1000 for each in frames], "s"))
    print(f"peak memory {peak_mib():.0f} MiB")


def as_json(index: Index) -> bytes:
    """The same points as most would send them."""
    rows: pa.Table = index.table(
        "SELECT x, y, place, class_name, gate_status FROM images JOIN points USING (image_id)"
    )
    return json.dumps(rows.to_pylist()).encode()


def first_picture(tab: Browser, address: str) -> float:
    """Return seconds from asking for the page until its points are drawn."""
    tab.steps(("go", "about:blank"), ("go", f"{address}map"))
    return float(tab.steps(("read", DRAWN))[0]) / 1000


DRAWN = """new Promise(done => { const look = () => document.getElementById("map").dataset.drawn
  ? done(Number(document.getElementById("map").dataset.after)) : setTimeout(look, 5); look(); })"""
FRAMES = """new Promise(done => { const canvas = document.querySelector("canvas"), found = [];
  const step = () => { const begun = performance.now();
    canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
    requestAnimationFrame(() => setTimeout(() => { found.push(performance.now() - begun);
      found.length < 7 ? step() : done(found); })); }; step(); })"""


if __name__ == "__main__":
    main()
