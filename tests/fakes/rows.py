"""A row factory for catalog tests: small, whole, deterministic batches of samples and run rows."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from PIL import Image

from catalog.schema import SAMPLES
from factory.digest import canonical_json, digest
from factory.real.pixels import pixel_sha256

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
STARTED = datetime(2026, 11, 21, 5, 0, 0, 123456, tzinfo=UTC)


def png(shade: int, *, size_px: int = 8) -> bytes:
    """A PNG of one colour that depends on `shade`."""
    buffer = io.BytesIO()
    colour = (shade % 256, shade // 256 % 256, 128)
    Image.new("RGB", (size_px, size_px), colour).save(buffer, "PNG")
    return buffer.getvalue()


def sample_row(index: int, *, recipe: str = "recipe-a", **changes: object) -> dict[str, object]:
    """Row number `index` of a recipe; every column of `SAMPLES` but run_id and batch_index."""
    recipe_digest = digest(recipe)
    image_id = digest([recipe_digest, index])
    image = png(index)
    class_id = index % len(CLASSES)
    row: dict[str, object] = {
        "image_id": image_id,
        "class_name": CLASSES[class_id],
        "class_id": class_id,
        "guidance_scale": 1.5,
        "num_inference_steps": 20,
        "scheduler": "ddim",
        "gate_status": "accepted",
        "blank_score": (index % 100) / 100,
        "range_score": 0.5,
        "blur_score": 0.25,
        "seed": int(image_id[:15], 16),
        "recipe_digest": recipe_digest,
        "recipe_index": index,
        "created_at": STARTED,
        "batch_slot": index % 4,
        "batch_size": 4,
        "image": {"bytes": image, "path": f"{image_id}.png"},
        "mask": None,
        "height_px": 8,
        "width_px": 8,
        "channels": 3,
        "pixel_sha256": pixel_sha256(np.asarray(Image.open(io.BytesIO(image)))),
        "class_names": list(CLASSES),
        "soft_label": [float(i == class_id) for i in range(len(CLASSES))],
        "is_synthetic": True,
        "model_id": "model-a",
        "base_model_id": None,
        "adapter_id": None,
        "split_digest": "split-a",
        "dataset_fingerprint": "real-a",
        "recipe": canonical_json({"name": recipe}),
        "method": "text",
        "prompt": f"a {CLASSES[class_id]}",
        "negative_prompt": "",
        "reference_ids": [],
        "guidance_terms": None,
        "bridge_depth": None,
        "cluster_id": None,
        "gate_reasons": [],
        "engine": canonical_json({"device": "cpu"}),
        "code_version": "0.1.0",
        "mask_area_score": None,
        "mask_parts_score": None,
        "agreement_score": None,
        "copy_score": None,
        "noise_score": None,
        "brightness_score": None,
        "confidence_score": None,
        "pixel_size_um": None,
        "crop": None,
    }
    return row | changes


def batch_rows(
    batch_index: int, *, size: int = 4, recipe: str = "recipe-a", **changes: object
) -> pa.Table:
    """Batch `batch_index` of a recipe as `write_batch` takes it: rows index*size onwards."""
    first = batch_index * size
    return rows_table([sample_row(first + i, recipe=recipe, **changes) for i in range(size)])


def rows_table(rows: list[dict[str, object]]) -> pa.Table:
    """Rows as an Arrow table with the types of `SAMPLES`."""
    fields = [field.with_nullable(True) for field in SAMPLES if field.name in rows[0]]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def rejected(row: Mapping[str, object], *reasons: str) -> dict[str, object]:
    """The same row, rejected for `reasons` ('gate: why')."""
    return {**row, "gate_status": "rejected", "gate_reasons": list(reasons)}


def run_row(run_id: str = "run-1", event: int = 0, **changes: object) -> dict[str, object]:
    """An event of a run, every column of `RUNS`."""
    row: dict[str, object] = {
        "run_id": run_id,
        "event": event,
        "status": "started" if event == 0 else "complete",
        "config": "num_images: 8\n",
        "config_digest": digest({"num_images": 8}),
        "catalog_version_before": 0,
        "num_requested": 8,
        "num_accepted": 8 * min(event, 1),
        "num_rejected": 0,
        "rejected_by_gate": "{}",
        "environment": "{}",
        "code_version": "0.1.0",
        "started_at": STARTED,
        "updated_at": STARTED,
        "seconds_sampling": None,
        "seconds_commit": None,
        "images_per_second": None,
        "message": None,
    }
    return row | changes


def model_row(model_id: str = "model-a", **changes: object) -> dict[str, object]:
    """A row of `MODELS`."""
    row: dict[str, object] = {
        "model_id": model_id,
        "name": "wbc-base",
        "method": "text",
        "base_model_id": None,
        "split_digest": "split-a",
        "dataset_fingerprint": "real-a",
        "config": "{}",
        "licence": "CC-BY-4.0",
        "card": "# wbc-base\n",
        "added_at": STARTED,
    }
    return row | changes
