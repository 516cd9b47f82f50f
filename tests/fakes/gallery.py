"""A small catalog with everything that a gallery shows, and a client of its pages."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from catalog import SampleSink, record_model, record_run, write_batch
from catalog.gallery.app import application
from catalog.gallery.guard import App
from catalog.gallery.index import Index
from catalog.gallery.pictures import png_bytes
from catalog.gallery.serve import listening
from catalog.results import record_evaluation
from tests.fakes.rows import STARTED, model_row, rejected, rows_table, run_row, sample_row

CONFIG = {"gates": {"min_sharpness": 0.2}, "copies": {"bank": "bank", "min_ratio": 1.0}}
CARD = "# wbc-base\n\nNot for diagnosis.\n"


def mask() -> dict[str, bytes | str]:
    """A mask of two classes."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:7, 2:7], pixels[3:5, 3:5] = 1, 2
    return {"bytes": png_bytes(Image.fromarray(pixels)), "path": "mask.png"}


def publish(
    uri: Path, run_id: str, count: int, *, recipe: str = "recipe-a", **changes: object
) -> None:
    """Publish `count` images in batches of 4; every tenth is rejected as blurred, even have masks.

    Sharpness rises with the number of the image.
    """
    for first in range(0, count, 4):
        rows = []
        for n in range(first, min(first + 4, count)):
            row = sample_row(n, recipe=recipe, blur_score=n / 1000, agreement_score=0.9)
            row |= changes | ({"mask": mask()} if n % 2 == 0 else {})
            if n % 10 == 9 and "gate_status" not in changes:
                row = rejected(row, "blur: sharpness 0.1 below 0.2")
            rows.append(row)
        file = write_batch(uri, run_id=run_id, batch_index=first // 4, rows=rows_table(rows))
        SampleSink(uri, run_id).commit([file])


def catalog_at(uri: Path, count: int = 20) -> Path:
    """Two runs with different guidance, their model, and a study of it."""
    record_model(uri, model_row(card=CARD))
    publish(uri, "run-low", count)
    later = STARTED + timedelta(hours=1)
    publish(uri, "run-high", count, recipe="recipe-b", guidance_scale=3.0, created_at=later)
    for run_id, started in (("run-low", STARTED), ("run-high", later)):
        row = run_row(run_id, 1, config=json.dumps(CONFIG), num_rejected=2, started_at=started)
        record_run(uri, row | {"rejected_by_gate": '{"blur": 2}', "images_per_second": 1.5})
    record_evaluation(uri, evaluation_row(), [score_row(arm) for arm in ("real", "mixed")])
    return uri


def evaluation_row(**changes: object) -> dict[str, object]:
    """A study whose verdict is good."""
    texts = ("name", "task", "config", "config_digest", "dataset_fingerprint", "baseline")
    return {
        **{name: f"the {name}" for name in texts},
        "evaluation_id": "study-1",
        "split_digests": ["split-a"],
        "catalog_version": 2,
        "model_ids": ["model-a"],
        "arms": ["real", "mixed"],
        "metric": "macro_f1",
        "verdicts": json.dumps({"mixed": "mixed helps by 4.1 points [1.9, 6.3]"}),
        "comparisons": json.dumps(
            {
                "mixed": {
                    "the baseline": {"difference": {"value": 0.041, "low": 0.019, "high": 0.063}}
                }
            }
        ),
        "code_version": "0.1.0",
        "finished_at": STARTED,
    } | changes


def score_row(arm: str) -> dict[str, object]:
    """A score of one arm of it."""
    return {
        "evaluation_id": "study-1",
        "unit_id": f"unit-{arm}",
        "arm": arm,
        "fold": 0,
        "seed": 0,
        "part": "test",
        "metric": "macro_f1",
        "class_name": None,
        "value": 0.75,
        "num_images": 10,
        "num_real": 10,
        "num_synthetic": 0,
        "manifest_digest": "manifest",
        "split_digest": "split-a",
        "best_step": 1,
    }


def client_of(uri: Path, **how: str | None) -> TestClient:
    """A browser of the catalog's pages, which follows no redirect."""
    pages = application(Index(str(uri)), **how)
    return TestClient(pages, base_url="http://127.0.0.1:8080", follow_redirects=False)


@contextmanager
def served(app: App) -> Iterator[str]:
    """Serve an application in a thread; yield its address, which ends in '/'."""
    taken = listening("127.0.0.1", 0)
    config = uvicorn.Config(app, access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
