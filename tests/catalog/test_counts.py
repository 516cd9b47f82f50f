"""The counts of a run: by gate, of this run alone, in pieces of any size."""

import pytest

from catalog import Catalog, SampleSink, progress, write_batch
from catalog.progress import run_counts
from tests.fakes.rows import batch_rows, rejected, rows_table, sample_row


def publish(uri: str, run_id: str, tables: list, recipe: str = "recipe-a") -> None:
    files = [
        write_batch(uri, run_id=run_id, batch_index=index, rows=rows)
        for index, rows in enumerate(tables)
    ]
    SampleSink(uri, run_id).commit(files)


@pytest.mark.parametrize("at_a_time", [1, 2, 256])
def test_every_image_counts_once_and_once_for_each_gate(
    tmp_path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(progress, "FILES_AT_A_TIME", at_a_time)
    uri = str(tmp_path)
    mixed = rows_table(
        [
            sample_row(4),
            rejected(sample_row(5), "blur: a", "range: b"),
            rejected(sample_row(6), "blur: a", "blur: twice"),
        ]
    )
    publish(uri, "run-1", [batch_rows(0), mixed])
    publish(uri, "run-2", [batch_rows(0, recipe="recipe-b")])
    found = run_counts(Catalog(uri), "run-1")
    assert (found.accepted, found.rejected) == (5, 2)
    assert found.rejected_by_gate == {"blur": 2, "range": 1}
    assert run_counts(Catalog(uri), "run-2").accepted == 4
    assert run_counts(Catalog(uri), "run-3").accepted == 0
