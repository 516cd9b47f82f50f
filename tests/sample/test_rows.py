"""From drawn pixels to rows: masks are stored losslessly, and a method's own facts arrive."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from catalog.batch import as_samples
from factory.errors import ModelError
from factory.gate.masks import MaskGates
from factory.gate.pixel import PixelGates
from factory.gate.verdict import Verdict
from factory.real.pixels import pixel_sha256
from factory.sample.batches import _again, _told
from factory.sample.drawn import Drawn
from factory.sample.plan import Batch
from factory.sample.recipe import Request
from factory.sample.rows import RunFacts, batch_rows
from tests.laws.test_identity import recipe

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
MASKS = RNG.integers(0, 3, (2, 16, 16), np.uint8)
BATCH = Batch(
    index=0,
    size=4,
    requests=tuple(
        Request(recipe=recipe(reference_id=name, reference_sha256="0", options="{}"), index=0)
        for name in ("a", "b")
    ),
)
FACTS = RunFacts(
    run_id="run-1",
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    code_version="1",
    class_names=("lymphocyte", "monocyte"),
    gates=(PixelGates(), MaskGates()),
)
LOW = Verdict(gate="inversion", score=None, reason="PSNR 21 dB below 30")
DRAWN = Drawn(
    images=IMAGES,
    masks=MASKS,
    columns={"soft_label": [[0.25, 0.75], [1.0, 0.0]], "cluster_id": [3, 4]},
    verdicts=[[], [LOW]],
)


def test_a_mask_is_stored_as_class_indices_without_loss() -> None:
    rows = batch_rows(BATCH, DRAWN, FACTS).to_pylist()
    for row, image, mask in zip(rows, IMAGES, MASKS, strict=True):
        stored = Image.open(io.BytesIO(row["mask"]["bytes"]))
        assert stored.mode == "L"
        assert np.array_equal(np.asarray(stored), mask)
        assert row["mask"]["path"] == f"{row['image_id']}.mask.png"
        assert row["pixel_sha256"] == pixel_sha256(image, mask) != pixel_sha256(image)


def test_a_row_says_how_large_its_pixels_are_and_what_its_generator_learnt() -> None:
    assert batch_rows(BATCH, DRAWN, FACTS)["pixel_size_um"].null_count == 2
    told = replace(FACTS, lineage={"pixel_size_um": 0.5, "crop": "0.711"})
    rows = batch_rows(BATCH, DRAWN, told).to_pylist()
    assert [(row["pixel_size_um"], row["crop"]) for row in rows] == [(0.5, "0.711")] * 2


def test_what_a_method_says_of_an_image_is_in_its_row() -> None:
    table = batch_rows(BATCH, DRAWN, FACTS)
    assert len(as_samples(table, run_id="run-1", batch_index=0)) == 2
    rows = table.to_pylist()
    assert [row["soft_label"] for row in rows] == [[0.25, 0.75], [1.0, 0.0]]
    assert [row["cluster_id"] for row in rows] == [3, 4]
    assert [row["reference_ids"] for row in rows] == [["a"], ["b"]]
    assert [row["gate_status"] for row in rows] == ["accepted", "rejected"]
    assert rows[1]["gate_reasons"] == ["inversion: PSNR 21 dB below 30"]


def test_rows_without_a_mask_are_as_they_were() -> None:
    row = batch_rows(BATCH, Drawn(images=IMAGES), FACTS).to_pylist()[0]
    assert row["mask"] is None
    assert row["soft_label"] == [0.0, 1.0]
    assert row["pixel_sha256"] == pixel_sha256(IMAGES[0])


def test_everything_drawn_survives_the_way_to_the_writer() -> None:
    columns = {
        "image": np.concatenate([IMAGES, IMAGES]),
        "mask": np.concatenate([MASKS, MASKS]),
        "told": np.array([_told(DRAWN, i) for i in (0, 1)] * 2),
    }
    again = _again(columns, np.array([False, False, True, True]))
    assert batch_rows(BATCH, again, FACTS).equals(batch_rows(BATCH, DRAWN, FACTS))
    assert json.loads(columns["told"][1])["verdicts"][0]["gate"] == "inversion"


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        ({"masks": MASKS[:, :8]}, "masks"),
        ({"columns": {"soft_label": [[1.0]]}}, "soft_label"),
        ({"columns": {"colour": [1, 2]}}, "colour"),
        ({"verdicts": [[]]}, "verdicts"),
    ],
)
def test_parts_that_do_not_fit_the_images_are_refused(odd: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        Drawn(images=IMAGES, **odd)
