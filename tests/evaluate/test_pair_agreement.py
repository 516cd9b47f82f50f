"""Agreement of drawn pairs with a judge: means by class, over the images that hold it."""

from pathlib import Path

import numpy as np
import pytest

from catalog import Catalog, SampleSink, write_batch
from factory.errors import CatalogError
from factory.evaluate.pair_agreement import (
    Pairs,
    agreement,
    drawn_pairs,
    mean,
    scale_of_pairs,
    table,
)
from factory.real.sources import open_dataset
from tests.fakes.fields import with_pixels
from tests.fakes.rows import batch_rows

MASKS = np.zeros((3, 8, 8), np.uint8)
MASKS[0, :4, :4] = 1
MASKS[0, :2, :2] = 2
MASKS[1, 4:, 4:] = 1
IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


def test_a_class_counts_where_it_is_found_or_drawn() -> None:
    found = MASKS.copy()
    found[1] = 0
    found[1, 4:, 4:6] = 1  # half of it
    made = agreement(lambda _: found, Pairs(images=IMAGES, masks=MASKS), num_classes=3)
    assert made["foreground"].n == 2  # the third is empty on both sides
    assert made["foreground"].value == pytest.approx((1 + 2 * 8 / 24) / 2)
    assert made["class 2"].value == 1
    assert made["class 2"].n == 1
    assert "| real | 0.833 [" in table({"real": made})
    assert "(n 1) |" in table({"real": made})


def test_the_interval_is_196_standard_errors_wide() -> None:
    made = mean([0.5, 0.7, 0.9])
    assert made.value == pytest.approx(0.7)
    assert made.high - made.value == pytest.approx(1.96 * 0.2 / 3**0.5, rel=1e-4)


def test_another_scale_of_drawn_pairs_is_told(tmp_path: Path) -> None:
    rows = batch_rows(0, pixel_size_um=0.5, crop="0.711")
    files = [write_batch(tmp_path, run_id="run-1", batch_index=0, rows=rows)]
    SampleSink(tmp_path, "run-1").commit(files)
    cells = open_dataset("smear:12?seed=1&size=16")
    told = "run_id = 'run-1'"
    line = scale_of_pairs(Catalog(tmp_path), told, with_pixels(cells, 1.0), cells.ids)
    assert "drawn images (the central 0.711 of their frames) show 4 µm, real images 16 µm" in line
    assert scale_of_pairs(Catalog(tmp_path), "false", cells, cells.ids) is None


def test_rows_without_masks_are_refused(tmp_path: Path) -> None:
    files = [write_batch(tmp_path, run_id="run-1", batch_index=0, rows=batch_rows(0))]
    SampleSink(tmp_path, "run-1").commit(files)
    with pytest.raises(CatalogError, match="not all of them have masks"):
        drawn_pairs(Catalog(tmp_path), "run_id = 'run-1'")
