import dataclasses
import multiprocessing as mp
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from catalog import Catalog, SampleSink, record_model, record_run, schema, write_batch
from catalog.place import Place
from catalog.store import open_table
from catalog.transaction import Retry
from factory.errors import CatalogError
from tests.fakes.rows import batch_rows, model_row, run_row

ROOT = Path(__file__).parents[2]


def written(uri, indices, run_id="run-1", **changes):
    return [
        write_batch(uri, run_id=run_id, batch_index=i, rows=batch_rows(i, **changes))
        for i in indices
    ]


def ids(uri, **view):
    return Catalog(uri, **view).samples().to_table(columns=["image_id"])["image_id"].to_pylist()


def test_replayed_batch_is_not_published_twice(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    files = written(tmp_path, range(3))
    first = sink.commit(files)
    assert sink.commit(files) == first  # no empty commit either
    assert SampleSink(tmp_path, "run-1").commit(written(tmp_path, range(3))) == first
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 12


def test_batch_drawn_again_with_other_pixels_does_not_replace_the_published_one(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    kept = written(tmp_path, [0])[0]
    sink.commit([kept])
    before = (tmp_path / "samples" / kept.path).read_bytes()
    sink.commit(written(tmp_path, [0], engine='{"device":"cuda"}'))
    assert set(Catalog(tmp_path).samples().to_table()["engine"].to_pylist()) == {'{"device":"cpu"}'}
    assert (tmp_path / "samples" / kept.path).read_bytes() == before
    assert len(ids(tmp_path)) == 4


def test_first_of_two_files_of_one_batch_in_one_call_wins(tmp_path):
    first, second = written(tmp_path, [0])[0], written(tmp_path, [0], prompt="other")[0]
    SampleSink(tmp_path, "run-1").commit([first, second, first])
    assert len(ids(tmp_path)) == 4
    assert set(Catalog(tmp_path).samples().to_table()["prompt"].to_pylist()) != {"other"}


def test_batches_may_come_in_any_order_and_pieces(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    files = written(tmp_path, range(5))
    sink.commit([files[4], files[1]])
    assert sink.published() == {1, 4}
    sink.commit([files[1], files[0], files[4], files[3]])
    sink.commit([files[2]])
    assert sink.published() == set(range(5))
    assert sorted(ids(tmp_path)) == sorted(
        row for i in range(5) for row in batch_rows(i)["image_id"].to_pylist()
    )


def test_nothing_to_publish_makes_no_version(tmp_path):
    assert SampleSink(tmp_path, "run-1").commit([]) == 0


def test_rival_sink_of_the_same_run_between_decision_and_commit_changes_nothing(tmp_path):
    """The commit is refused (stale snapshot), decided again, and only batch 2 is missing then."""
    files = written(tmp_path, range(3))
    waits, steps = [], []

    def rival(step):
        steps.append(step)
        if steps == ["before_commit"]:
            SampleSink(tmp_path, "run-1").commit(files[:2])

    retry = Retry(sleep=waits.append, uniform=lambda low, high: high)
    SampleSink(tmp_path, "run-1", retry=retry, on_step=rival).commit(files)
    assert steps == ["before_commit", "before_commit", "after_commit"]
    assert waits == [0.05]
    assert len(ids(tmp_path)) == 12
    assert [c.get("batches") for c in Catalog(tmp_path).history()] == ["2", "0-1", None]


def test_other_run_between_decision_and_commit_needs_no_retry(tmp_path):
    other = written(tmp_path, [0], run_id="run-2", recipe="recipe-b")
    waits = []

    def rival(step):
        if step == "before_commit":
            SampleSink(tmp_path, "run-2").commit(other)

    retry = Retry(sleep=waits.append)
    SampleSink(tmp_path, "run-1", retry=retry, on_step=rival).commit(written(tmp_path, [0]))
    assert waits == []
    assert len(set(ids(tmp_path))) == 8


def test_run_that_always_loses_gives_up_with_a_remedy_and_resumes_later(tmp_path):
    files = written(tmp_path, range(4))

    def rival(step):
        if step == "before_commit":
            held = SampleSink(tmp_path, "run-1").published()
            SampleSink(tmp_path, "run-1").commit([files[len(held)]])

    waits = []
    retry = Retry(attempts=3, sleep=waits.append, uniform=lambda low, high: high)
    sink = SampleSink(tmp_path, "run-1", retry=retry, on_step=rival)
    with pytest.raises(CatalogError, match=r"none of 3 commits.*Resume the run"):
        sink.commit(files)
    assert waits == [0.05, 0.1, 0.2]  # full jitter: at most these
    SampleSink(tmp_path, "run-1").commit(files)
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 16


@pytest.mark.parametrize("step", ["before_commit", "after_commit"])
@pytest.mark.fault
def test_kill_9_around_a_commit_loses_and_doubles_nothing(tmp_path, step):
    script = """
import os, signal, sys
from catalog import SampleSink, write_batch
from tests.fakes.rows import batch_rows
uri, fatal = sys.argv[1:]
def die(step):
    if step == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
files = [write_batch(uri, run_id="run-1", batch_index=i, rows=batch_rows(i)) for i in range(2)]
SampleSink(uri, "run-1", on_step=die).commit(files)
"""
    command = [sys.executable, "-c", script, str(tmp_path), step]
    died = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert died.returncode == -signal.SIGKILL
    sink = SampleSink(tmp_path, "run-1")
    assert sink.published() == (set() if step == "before_commit" else {0, 1})
    sink.commit(written(tmp_path, range(3)))
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 12


def test_processes_that_publish_overlapping_batches_of_one_run_publish_each_once(tmp_path):
    SampleSink(tmp_path, "run-1")
    spawn = mp.get_context("spawn")
    parts = [range(6), range(3, 9), range(8, -1, -1)]
    workers = [spawn.Process(target=_publish, args=(str(tmp_path), list(part))) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 9 * 4
    assert SampleSink(tmp_path, "run-1").published() == set(range(9))


def _publish(uri, indices):
    sink = SampleSink(uri, "run-1", retry=Retry(attempts=50))
    for index in indices:
        sink.commit(written(uri, [index]))


def test_versions_stay_readable_while_the_run_goes_on(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    versions = [sink.commit(written(tmp_path, [i])) for i in range(3)]
    assert [len(ids(tmp_path, version=v)) for v in (0, *versions)] == [0, 4, 8, 12]


def test_compaction_by_another_tool_does_not_make_batches_missing(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    sink.commit(written(tmp_path, range(3)))
    DeltaTable(tmp_path / "samples").optimize.compact()
    assert len(DeltaTable(tmp_path / "samples").file_uris()) == 1
    assert sink.published() == {0, 1, 2}
    sink.commit(written(tmp_path, range(4)))
    assert sink.published() == {0, 1, 2, 3}
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 16


def test_vacuum_removes_orphans_of_a_crash_and_nothing_published(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    kept, orphan = written(tmp_path, range(2))
    sink.commit([kept])
    DeltaTable(tmp_path / "samples").vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
    )
    assert not (tmp_path / "samples" / orphan.path).exists()
    assert len(ids(tmp_path)) == 4
    with pytest.raises(CatalogError, match=r"has None bytes, .*Write the batch again"):
        sink.commit([orphan])
    sink.commit(written(tmp_path, [1]))
    assert len(ids(tmp_path)) == 8


def test_files_that_are_not_of_this_run_or_not_whole_are_refused(tmp_path):
    file = written(tmp_path, [0])[0]
    with pytest.raises(CatalogError, match="is not batch 0 of run-2"):
        SampleSink(tmp_path, "run-2").commit([file])
    with pytest.raises(CatalogError, match="is not batch 5 of run-1"):
        SampleSink(tmp_path, "run-1").commit([dataclasses.replace(file, batch_index=5)])
    os.truncate(tmp_path / "samples" / file.path, 100)
    with pytest.raises(CatalogError, match="has 100 bytes"):
        SampleSink(tmp_path, "run-1").commit([file])
    assert ids(tmp_path) == []


def test_history_tells_run_and_batches(tmp_path):
    SampleSink(tmp_path, "run-1").commit(written(tmp_path, [0, 1, 2, 5, 7, 8]))
    newest = Catalog(tmp_path).history()[0]
    assert (newest["run_id"], newest["batches"], newest["num_rows"]) == ("run-1", "0-2,5,7-8", 24)


def test_secrets_of_the_store_are_not_shown(tmp_path):
    sink = SampleSink(Place(str(tmp_path), {"AWS_SECRET_ACCESS_KEY": "hush"}), "run-1")
    assert "hush" not in repr(sink)


def test_run_event_is_recorded_once_and_the_latest_is_shown(tmp_path):
    for _ in range(2):
        record_run(tmp_path, run_row(event=0))
    record_run(tmp_path, run_row("run-2", event=0))
    assert record_run(tmp_path, run_row(event=1)) == record_run(tmp_path, run_row(event=1))
    catalog = Catalog(tmp_path)
    assert catalog.dataset("runs").count_rows() == 3
    assert catalog.run("run-1")["status"] == "complete"
    assert catalog.runs_latest()["event"].to_pylist() == [1, 0]


def test_run_event_that_comes_too_late_is_refused_not_dropped(tmp_path):
    record_run(tmp_path, run_row(event=3))
    with pytest.raises(CatalogError, match=r"comes after 3.*Use the number 4"):
        record_run(tmp_path, run_row(event=2))


@pytest.mark.parametrize("change", [{"status": "maybe"}, {"event": -1}, {"colour": "red"}])
def test_wrong_run_row_is_refused(tmp_path, change):
    with pytest.raises(CatalogError, match=r"maybe|-1|colour"):
        record_run(tmp_path, run_row(**change))
    with pytest.raises(CatalogError, match=r"cannot be published|wrong type"):
        record_run(tmp_path, run_row(num_requested="many"))


def test_model_is_recorded_once(tmp_path):
    for _ in range(2):
        record_model(tmp_path, model_row())
    record_model(tmp_path, model_row("model-b", name="tuned"))
    assert sorted(Catalog(tmp_path).models()["name"].to_pylist()) == ["tuned", "wbc-base"]


def test_transaction_of_a_run_rises_with_every_commit(tmp_path):
    sink = SampleSink(tmp_path, "run-1")
    for number in range(1, 4):
        sink.commit(written(tmp_path, [number]))
        assert DeltaTable(tmp_path / "samples").transaction_version("run-1") == number


def test_a_table_of_before_takes_rows_with_columns_that_came_later(tmp_path, monkeypatch):
    """Columns are added last and nullable: an old catalog is read, widened and written on."""
    later = schema.SAMPLES.get_field_index("mask_area_score")
    early = pa.schema(list(schema.SAMPLES)[:later])
    monkeypatch.setitem(schema.TABLES, "samples", early)
    SampleSink(tmp_path, "run-1")
    monkeypatch.undo()
    assert len(open_table(tmp_path, "samples").schema().fields) == later
    for run, score in (("run-1", None), ("run-2", 0.25)):
        rows = batch_rows(0, recipe=run, mask_area_score=score)
        file = write_batch(tmp_path, run_id=run, batch_index=0, rows=rows)
        SampleSink(tmp_path, run).commit([file])
    stored = pa.schema(open_table(tmp_path, "samples").schema())
    assert stored.equals(schema.SAMPLES)
    scores = Catalog(tmp_path).samples().to_table(columns=["run_id", "mask_area_score"])
    assert scores.group_by("run_id").aggregate([("mask_area_score", "max")]).sort_by(
        "run_id"
    ).to_pylist() == [
        {"run_id": "run-1", "mask_area_score_max": None},
        {"run_id": "run-2", "mask_area_score_max": 0.25},
    ]
    assert Catalog(tmp_path, version=0).samples().to_table().num_rows == 0
