"""Tables written by the first factory, commit 2b8f312, are opened, read, queried and written on.

`data/first` holds what its code wrote: one run of three 8-px images, one rejected, and one model.
Later factories knew more columns and more tables; nothing of it is rewritten for them.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog import Catalog, record_model, record_run, sql
from catalog.releases import list_releases, open_release, verify_release
from catalog.releasing import create_release
from catalog.schema import SAMPLES, TABLES
from catalog.tombstones import forgotten
from catalog.upkeep import optimize
from tests.catalog.test_table import publish
from tests.fakes.rows import model_row, run_row, sample_row

FIRST = Path(__file__).parent / "data" / "first"
MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(FIRST, tmp_path / "first"))


def test_it_has_none_of_the_later_tables_and_columns():
    assert {path.name for path in FIRST.iterdir()} == {"samples", "runs", "models"}
    log = (FIRST / "samples" / "_delta_log" / f"{0:020d}.json").read_text()
    assert "copy_score" not in log


def test_a_column_that_nothing_ever_wrote_went_without_harm(old):
    """`tier_verified` stood in the first tables: it is passed over, and the table written on."""
    assert "tier_verified" in (old / "samples" / "_delta_log" / f"{0:020d}.json").read_text()
    publish(old, [5], "run-2")
    rows = Catalog(old).samples().to_table()
    assert rows.num_rows == 7
    assert "tier_verified" not in rows.column_names
    optimize(old)
    assert Catalog(old).samples().to_table().num_rows == 7


def test_it_is_read_and_queried_as_it_was(old):
    catalog = Catalog(old)
    rows = catalog.samples().to_table()
    assert rows.schema.equals(SAMPLES)
    expected = [sample_row(i)["image_id"] for i in range(3)]
    assert sorted(rows["image_id"].to_pylist()) == sorted(expected)
    assert rows["copy_score"].null_count == 3
    assert catalog.run("run-1")["status"] == "complete"
    counts = "SELECT gate_status, count(*) AS n FROM samples GROUP BY ALL ORDER BY ALL"
    assert [row["n"] for row in sql(catalog, counts).to_pylist()] == [2, 1]
    assert sql(catalog, "SELECT * FROM samples WHERE copy_score > 0").num_rows == 0


def test_tables_that_it_lacks_read_as_empty_and_are_not_made_by_reading(old):
    catalog = Catalog(old)
    for name in TABLES.keys() - {"samples", "runs", "models"}:
        assert sql(catalog, f"SELECT * FROM {name}").num_rows == 0
    assert list_releases(old) == []
    assert forgotten(old).models == frozenset()
    assert {path.name for path in old.iterdir()} == {"samples", "runs", "models"}


def test_it_is_written_on_released_compacted_and_verified(old):
    create_release(old, "old", **MADE)
    publish(old, [5], "run-2", copy_score=0.5, pixel_size_um=0.25, crop="0.711")
    publish(old, [3], "run-1")
    record_run(old, run_row("run-2"))
    record_model(old, model_row("model-b"))
    assert len(Catalog(old).models()) == 2
    new = create_release(old, "old", **MADE)
    assert (new.name, new.num_images) == ("old@1.1.0", 10)
    assert optimize(old).files_after == 2
    scores = sql(Catalog(old), "SELECT count(*) AS n FROM samples WHERE copy_score = 0.5")
    assert scores["n"].to_pylist() == [4]
    fields = sql(Catalog(old), "SELECT crop, count(*) AS n FROM samples GROUP BY ALL ORDER BY n")
    assert fields.to_pylist() == [{"crop": "0.711", "n": 4}, {"crop": None, "n": 7}]
    assert len(open_release(old, "old@1.0.0")) == 2
    for name in ("old@1.0.0", "old@1.1.0"):
        assert verify_release(old, name).problems == []
