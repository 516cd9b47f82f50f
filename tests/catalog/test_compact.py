"""Compaction keeps rows, order and exactly-once; a run goes whole; vacuum keeps every release."""

from datetime import UTC, datetime, timedelta

import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from catalog import Catalog, SampleSink, record_run, sql, write_batch
from catalog.query import files_scanned
from catalog.releases import diff_versions, open_release, verify_release
from catalog.releasing import create_release, retract_release
from catalog.selection import Selection
from catalog.upkeep import groups, optimize, remove_run, vacuum
from factory.errors import CatalogError
from tests.catalog.test_table import publish
from tests.fakes.rows import batch_rows, run_row

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}
AT_ONCE = timedelta(0)


def table(uri, **view):
    return Catalog(uri, **view).samples().to_table().sort_by("image_id")


def files(uri):
    return sorted(DeltaTable(uri / "samples").file_uris())


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 100))
def test_groups_are_neighbours_that_fit_and_no_two_groups_could_be_one(sizes, target):
    found = groups(sizes, target)
    numbers = [number for group in found for number in group]
    assert numbers == sorted(set(numbers))
    assert all(len(group) > 1 and sum(sizes[i] for i in group) <= target for group in found)
    for first, second in zip(range(len(sizes)), range(1, len(sizes)), strict=False):
        pair = {first, second}
        assert sizes[first] + sizes[second] > target or pair & set(numbers)


def test_optimize_keeps_every_row_and_the_order_of_batches(tmp_path):
    publish(tmp_path, [2, 0, 1])
    publish(tmp_path, [0, 1], "run-2", recipe="other", mask_area_score=0.5)
    before = table(tmp_path)
    done = optimize(tmp_path)
    assert (done.files_before, done.files_after) == (5, 2)
    assert table(tmp_path).equals(before)
    order = Catalog(tmp_path).samples().to_table(columns=["run_id", "batch_index", "batch_slot"])
    rows = [row for row in order.to_pylist() if row["run_id"] == "run-1"]
    assert rows == sorted(rows, key=lambda row: (row["batch_index"], row["batch_slot"]))
    assert optimize(tmp_path).version == done.version  # nothing left to do, no commit
    assert table(tmp_path, version=1).num_rows == 12


def test_queries_prune_and_find_exact_times_afterwards(tmp_path):
    """deltalake's own compaction cuts the bounds of times to milliseconds and loses these rows."""
    publish(tmp_path, range(2))
    publish(tmp_path, range(2), "run-2", recipe="other", guidance_scale=4.0)
    optimize(tmp_path)
    catalog = Catalog(tmp_path)
    text = "SELECT count(*) AS n FROM samples WHERE "
    exact = text + "created_at = TIMESTAMPTZ '2026-11-21 05:00:00.123456+00'"
    assert sql(catalog, exact)["n"][0].as_py() == 16
    assert sql(catalog, text + "guidance_scale > 3")["n"][0].as_py() == 8
    assert files_scanned(catalog, text + "guidance_scale > 3") == (1, 2)


def test_files_are_joined_up_to_the_size_asked_for(tmp_path):
    publish(tmp_path, range(5))
    size = max(file.stat().st_size for file in (tmp_path / "samples").rglob("batch-*"))
    assert optimize(tmp_path, target_bytes=2 * size).files_after == 3
    assert table(tmp_path).num_rows == 20


def test_joined_batches_are_not_published_again(tmp_path):
    publish(tmp_path, range(3))
    optimize(tmp_path)
    sink = SampleSink(tmp_path, "run-1")
    assert sink.published() == {0, 1, 2}
    publish(tmp_path, [1, 3])
    assert sink.published() == {0, 1, 2, 3}
    assert len(set(table(tmp_path)["image_id"].to_pylist())) == table(tmp_path).num_rows == 16


def test_a_sink_that_commits_in_between_loses_nothing(tmp_path):
    """The compaction's snapshot is stale, its commit refused, and it is decided again."""
    publish(tmp_path, range(2))
    steps = []

    def rival(step):
        if not steps:
            publish(tmp_path, [2])
        steps.append(step)

    optimize(tmp_path, on_step=rival)
    assert steps.count("before_commit") == 2
    assert len(files(tmp_path)) == 1
    assert table(tmp_path).num_rows == 12


def test_a_sink_overtaken_by_a_compaction_publishes_only_what_is_missing(tmp_path):
    publish(tmp_path, range(2))
    written = [
        write_batch(tmp_path, run_id="run-1", batch_index=i, rows=batch_rows(i)) for i in (1, 2)
    ]
    done = []

    def rival(step):
        if step == "before_commit" and not done:
            done.append(optimize(tmp_path))

    SampleSink(tmp_path, "run-1", on_step=rival).commit(written)
    assert len(done) == 1
    assert len(set(table(tmp_path)["image_id"].to_pylist())) == table(tmp_path).num_rows == 12


def test_a_release_reads_after_appends_optimize_and_vacuum(tmp_path):
    publish(tmp_path, range(3))
    create_release(tmp_path, "wbc", **MADE)
    before = list(open_release(tmp_path, "wbc").batches(["image_id", "pixel_sha256"]))
    publish(tmp_path, [3])
    optimize(tmp_path)
    publish(tmp_path, [4])
    assert vacuum(tmp_path, retain=AT_ONCE, dry_run=False).kept_releases == ["wbc@1.0.0"]
    selection = open_release(tmp_path, "wbc")
    assert list(selection.batches(["image_id", "pixel_sha256"])) == before
    assert verify_release(tmp_path, "wbc").holds
    assert table(tmp_path).num_rows == 20


def test_vacuum_takes_what_was_replaced_or_never_published_and_only_when_asked(tmp_path):
    publish(tmp_path, range(2))
    create_release(tmp_path, "wbc", where="batch_index = 0", **MADE)
    publish(tmp_path, [2])
    optimize(tmp_path)
    orphan = write_batch(tmp_path, run_id="run-1", batch_index=7, rows=batch_rows(7))
    listed = vacuum(tmp_path, retain=AT_ONCE)
    gone = [tmp_path / "samples" / path for path in listed.paths]
    assert orphan.path in listed.paths
    assert len(gone) == 2  # batch 2, joined, and the orphan: the release pins version 1
    assert listed.num_bytes == sum(path.stat().st_size for path in gone)
    assert vacuum(tmp_path, retain=timedelta(days=7), dry_run=False).paths == []
    assert all(path.exists() for path in gone)
    vacuum(tmp_path, retain=AT_ONCE, dry_run=False)
    assert not any(path.exists() for path in gone)
    with pytest.raises(CatalogError, match="cannot be read"):
        len(list(Selection(catalog=Catalog(tmp_path, version=2)).batches()))
    assert verify_release(tmp_path, "wbc").holds


def test_files_of_a_retracted_release_may_go(tmp_path):
    publish(tmp_path, range(2))
    create_release(tmp_path, "wbc", **MADE)
    optimize(tmp_path)
    retract_release(tmp_path, "wbc@1.0.0", "wrong stain", **MADE)
    found = vacuum(tmp_path, retain=AT_ONCE, dry_run=False)
    assert (len(found.paths), found.given_up, found.kept_releases) == (2, ["wbc@1.0.0"], [])
    assert not verify_release(tmp_path, "wbc").holds
    publish(tmp_path, [5])  # nobody can tell what changed since: more than added, to be safe
    assert create_release(tmp_path, "wbc", **MADE).name == "wbc@2.0.0"


def test_fresh_files_of_a_run_that_may_be_writing_are_safe(tmp_path):
    publish(tmp_path, [0])
    record_run(tmp_path, run_row("run-1"))
    with pytest.raises(CatalogError, match=r"run-1 may still be writing.*1 day or more"):
        vacuum(tmp_path, retain=timedelta(hours=23))
    assert vacuum(tmp_path, retain=timedelta(days=1)).paths == []
    record_run(tmp_path, run_row("run-1", event=1))
    assert vacuum(tmp_path, retain=AT_ONCE).paths == []
    with pytest.raises(CatalogError, match="0 days or more"):
        vacuum(tmp_path, retain=-timedelta(days=1))


DRAWN = datetime(2026, 11, 21, 5, tzinfo=UTC)
LATER = DRAWN + timedelta(days=3)


def two_runs(place):
    """Publish run-1 (a release holds its first batches) and run-2, both complete."""
    publish(place, range(2))
    create_release(place, "wbc", **MADE)
    publish(place, [2])
    publish(place, range(2), "run-2", recipe="other")
    for run_id in ("run-1", "run-2"):
        record_run(place, run_row(run_id))
        record_run(place, run_row(run_id, 1))


def test_a_run_leaves_the_newest_version_whole_and_stays_in_earlier_ones_and_releases(tmp_path):
    two_runs(tmp_path)
    before = Catalog(tmp_path)
    told = remove_run(tmp_path, "run-1", now=LATER)
    assert (told.accepted + told.rejected, told.releases) == (12, ["wbc@1.0.0"])
    assert Catalog(tmp_path).version == before.version  # only told
    gone = remove_run(tmp_path, "run-1", now=LATER, dry_run=False)
    assert gone.version == before.version + 1
    assert set(table(tmp_path)["run_id"].to_pylist()) == {"run-2"}
    assert table(tmp_path, version=before.version).num_rows == 20
    assert verify_release(tmp_path, "wbc").holds
    row = Catalog(tmp_path).run("run-1")
    assert (row["status"], row["num_accepted"]) == ("removed", 0)
    assert Catalog(tmp_path).history(1)[0]["operation"] == "remove"
    added = diff_versions(tmp_path, before.version, gone.version)
    assert (added.added.num_rows, added.removed.num_rows) == (0, 12)
    again = remove_run(tmp_path, "run-1", now=LATER, dry_run=False)
    assert (again.version, again.accepted) == (gone.version, 0)


def test_a_removed_run_drawn_again_has_its_rows_once(tmp_path):
    two_runs(tmp_path)
    before = table(tmp_path)
    sink = SampleSink(tmp_path, "run-1")
    assert sink.published() == {0, 1, 2}
    remove_run(tmp_path, "run-1", now=LATER, dry_run=False)
    assert sink.published() == set()  # also for a sink that knew its batches
    publish(tmp_path, range(3))
    publish(tmp_path, range(3))
    assert table(tmp_path).equals(before)
    optimize(tmp_path)
    vacuum(tmp_path, retain=AT_ONCE, dry_run=False)
    assert table(tmp_path).equals(before)


def test_a_batch_that_comes_in_between_goes_with_its_run(tmp_path):
    two_runs(tmp_path)
    steps = []

    def rival(step):
        if not steps:
            publish(tmp_path, [3])
        steps.append(step)

    remove_run(tmp_path, "run-1", now=LATER, dry_run=False, on_step=rival)
    assert steps.count("before_commit") == 2
    assert set(table(tmp_path)["run_id"].to_pylist()) == {"run-2"}


def test_a_removal_killed_before_its_event_is_finished_when_asked_again(tmp_path):
    two_runs(tmp_path)

    def die(step):
        if step == "after_commit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remove_run(tmp_path, "run-1", now=LATER, dry_run=False, on_step=die)
    assert Catalog(tmp_path).run("run-1")["status"] == "complete"
    remove_run(tmp_path, "run-1", now=LATER, dry_run=False)
    assert Catalog(tmp_path).run("run-1")["status"] == "removed"


def test_a_run_that_may_be_drawing_is_not_removed(tmp_path):
    publish(tmp_path, [0])
    record_run(tmp_path, run_row("run-1", updated_at=datetime.now(UTC)))
    with pytest.raises(CatalogError, match=r"run-1 may still be writing.*a day after"):
        remove_run(tmp_path, "run-1", now=datetime.now(UTC))
    silent = remove_run(tmp_path, "run-1", now=datetime.now(UTC) + timedelta(days=2))
    assert silent.accepted + silent.rejected == 4
    with pytest.raises(CatalogError, match="no run 'run-9'"):
        remove_run(tmp_path, "run-9", now=LATER)
