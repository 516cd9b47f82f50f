"""Catalogs whose images, masks and names are worth exporting."""

import io

import numpy as np
import pytest
from PIL import Image

from catalog import Catalog, SampleSink, record_model, record_run, write_batch
from catalog.selection import Selection
from factory.digest import canonical_json
from tests.fakes.rows import model_row, rows_table, run_row, sample_row

NAMES = ("zebra", "Ape", "mole")  # neither sorted nor of one case: order must survive


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture(seed: int, size_px: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)


def mask(seed: int, values=(1,), size_px: int = 16) -> np.ndarray:
    """Blocks that touch at corners, have holes and reach the border."""
    rng = np.random.default_rng(1000 + seed)
    drawn = np.zeros((size_px, size_px), np.uint8)
    for value in values:
        small = rng.random((size_px // 2, size_px // 2)) < 0.3
        drawn[np.kron(small, np.ones((2, 2))) > 0] = value
    drawn[0, 0] = values[0]
    return drawn


def row_of(index: int, *, names=NAMES, class_name=None, values=None, size_px=16, **changes):
    class_name = class_name or names[index % len(names)]
    told = {
        "class_name": class_name,
        "class_id": names.index(class_name),
        "class_names": list(names),
        "soft_label": [float(name == class_name) for name in names],
        "height_px": size_px,
        "width_px": size_px,
        "prompt": f"a {class_name}",
        "recipe": canonical_json({"class_name": class_name, "method": "text"}),
    }
    row = sample_row(index, **{**told, **changes})
    row["image"] = {
        "bytes": encoded(picture(index, size_px)),
        "path": f"{row['image_id']}.png",
    }
    if values:
        drawn = encoded(mask(index, values, size_px))
        row["mask"] = {"bytes": drawn, "path": f"{row['image_id']}.png"}
    return row


def published(uri, rows, run_id="run-1"):
    file = write_batch(uri, run_id=run_id, batch_index=0, rows=rows_table(rows))
    SampleSink(uri, run_id).commit([file])
    return Selection(catalog=Catalog(uri))


@pytest.fixture
def plain(tmp_path) -> Selection:
    """Seven images without masks, with their run, model and a study."""
    uri = tmp_path / "catalog"
    record_run(uri, run_row(event=0))
    record_run(uri, run_row(event=1, rejected_by_gate='{"blur": 3}', num_rejected=3))
    record_model(uri, model_row(base_model_id="base-model"))
    return published(uri, [row_of(i) for i in range(7)])


@pytest.fixture
def masked(tmp_path) -> Selection:
    """Seven images with masks of one value besides 0."""
    return published(tmp_path / "catalog", [row_of(i, values=(1,)) for i in range(7)])


@pytest.fixture
def parts(tmp_path) -> Selection:
    """Five images with masks of two values besides 0."""
    return published(tmp_path / "catalog", [row_of(i, values=(1, 2)) for i in range(5)])


def rows_by_id(selection, *columns):
    """What the table holds, by image_id."""
    table = selection.catalog.samples().to_table()
    return {row["image_id"]: row for row in table.to_pylist()}
