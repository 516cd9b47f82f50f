"""Where runs stand is read from events, files and commits."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog.progress import rate_of, run_states
from catalog.sink import SampleSink, record_run, write_batch
from catalog.table import Catalog
from tests.fakes.rows import batch_rows, rejected, rows_table, run_row, sample_row

T = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


def test_a_running_run_is_counted_from_its_files(tmp_path: Path) -> None:
    record_run(tmp_path, run_row(num_requested=40, started_at=T, updated_at=T))
    sink = SampleSink(tmp_path, "run-1")
    odd = [sample_row(i) if i else rejected(sample_row(i), "blur: soft") for i in range(4)]
    tables = [rows_table(odd), batch_rows(1), batch_rows(2)]
    for index, rows in enumerate(tables):
        sink.commit([write_batch(tmp_path, run_id="run-1", batch_index=index, rows=rows)])
    (state,) = run_states(Catalog(tmp_path))
    assert (state.status, state.requested, state.published) == ("started", 40, 12)
    assert (state.accepted, state.rejected, state.rejected_by_gate) == (11, 1, {"blur": 1})
    assert state.images_per_second is not None
    assert state.eta_seconds == pytest.approx(28 / state.images_per_second)
    assert state.heard_at > T


def test_the_first_batch_of_a_run_counts(tmp_path: Path) -> None:
    since = datetime.now(UTC) - timedelta(seconds=100)
    record_run(tmp_path, run_row(num_requested=40, started_at=since, updated_at=since))
    file = write_batch(tmp_path, run_id="run-1", batch_index=0, rows=batch_rows(0))
    SampleSink(tmp_path, "run-1").commit([file])
    (state,) = run_states(Catalog(tmp_path))
    assert state.published == 4
    assert state.images_per_second == pytest.approx(4 / 100, rel=0.2)
    assert state.eta_seconds == pytest.approx(900, rel=0.2)


def test_an_ended_run_is_told_by_its_last_event(tmp_path: Path) -> None:
    record_run(tmp_path, run_row())
    ended = run_row(event=1, status="failed", images_per_second=3.5, message="power cut")
    record_run(tmp_path, ended | {"num_accepted": 6, "num_rejected": 1})
    (state,) = run_states(Catalog(tmp_path))
    assert (state.status, state.published, state.message) == ("failed", 7, "power cut")
    assert (state.images_per_second, state.eta_seconds) == (3.5, None)
    assert state.plain()["heard_at"].startswith("2026-11-21T05:00")


def test_the_newest_runs_come_first_and_no_more_than_asked(tmp_path: Path) -> None:
    for number in range(4):
        record_run(tmp_path, run_row(f"run-{number}", started_at=T + timedelta(hours=number)))
    assert [s.run_id for s in run_states(Catalog(tmp_path), 2)] == ["run-3", "run-2"]


def test_a_rate_needs_two_commits_and_leaves_out_the_first() -> None:
    assert rate_of([]) is None
    assert rate_of([(T, 100)]) is None
    assert rate_of([(T, 5), (T, 5)]) is None
    later = [(T + timedelta(seconds=s), 30) for s in (0, 10, 20)]
    assert rate_of(later) == 3.0
