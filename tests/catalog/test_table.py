import shutil
from datetime import timedelta

import pyarrow.dataset as ds
import pytest

from catalog import Catalog, SampleSink, record_run, write_batch
from catalog.schema import SAMPLES
from factory.digest import digest
from factory.errors import CatalogError
from tests.fakes.rows import STARTED, batch_rows, rejected, rows_table, run_row, sample_row


def publish(uri, indices, run_id="run-1", **changes):
    sink = SampleSink(uri, run_id)
    return sink.commit(
        [
            write_batch(uri, run_id=run_id, batch_index=i, rows=batch_rows(i, **changes))
            for i in indices
        ]
    )


def test_rows_come_back_as_they_went_in(tmp_path):
    publish(tmp_path, [0])
    table = Catalog(tmp_path).samples().to_table()
    assert table.schema.equals(SAMPLES)
    expected = batch_rows(0).to_pylist()
    for row, wanted in zip(table.sort_by("recipe_index").to_pylist(), expected, strict=True):
        assert row == {**wanted, "run_id": "run-1", "batch_index": 0, "attributes": None}


def test_created_catalog_is_empty_and_readable(tmp_path):
    catalog = Catalog.create(tmp_path)
    assert catalog.samples().to_table().schema.equals(SAMPLES)
    assert catalog.runs_latest().num_rows == catalog.models().num_rows == 0
    assert catalog.sample_ids(fraction=0.5) == []
    assert catalog.published_recipes(["x"]) == {}
    with pytest.raises(CatalogError, match="no run 'run-1'"):
        catalog.run("run-1")


def test_catalog_with_a_started_run_and_no_sample_is_readable(tmp_path):
    record_run(tmp_path, run_row())
    catalog = Catalog(tmp_path)
    assert (catalog.version, catalog.samples().count_rows()) == (None, 0)
    assert catalog.history() == []
    assert catalog.run("run-1")["status"] == "started"


def test_rows_by_id_keep_order_and_repeats(tmp_path):
    publish(tmp_path, range(6))
    catalog = Catalog(tmp_path)
    ids = [sample_row(i)["image_id"] for i in (17, 2, 17, 9)]
    assert catalog.rows(ids)["image_id"].to_pylist() == ids
    assert catalog.rows(ids, columns=["recipe_index"]).to_pydict() == {
        "recipe_index": [17, 2, 17, 9]
    }
    assert catalog.rows([]).num_rows == 0


def test_more_ids_than_are_pruned_one_by_one_are_all_found(tmp_path):
    publish(tmp_path, range(30))
    ids = [sample_row(i)["image_id"] for i in range(100)]
    assert Catalog(tmp_path).rows(ids)["image_id"].to_pylist() == ids


def test_unknown_id_and_unknown_column_are_named(tmp_path):
    publish(tmp_path, [0])
    with pytest.raises(CatalogError, match="'nope' is not in version 1"):
        Catalog(tmp_path).rows([sample_row(0)["image_id"], "nope"])
    with pytest.raises(CatalogError, match=r"no columns \['colour'\]"):
        Catalog(tmp_path).rows([sample_row(0)["image_id"]], columns=["colour"])


def test_id_published_by_two_runs_gives_the_earlier_run(tmp_path):
    publish(tmp_path, [0], "run-b", created_at=STARTED)
    publish(tmp_path, [0], "run-a", created_at=STARTED + timedelta(hours=1))
    row = Catalog(tmp_path).rows([sample_row(0)["image_id"]]).to_pylist()[0]
    assert row["run_id"] == "run-b"
    recipe = digest("recipe-a")
    assert Catalog(tmp_path).published_recipes([recipe, "other"]) == {recipe: "run-b"}
    assert Catalog(tmp_path).published_recipes([recipe], besides="run-b") == {recipe: "run-a"}


def test_view_of_a_version_shows_runs_as_they_were_then(tmp_path):
    record_run(tmp_path, run_row("run-1"))
    first = publish(tmp_path, [0])
    record_run(tmp_path, run_row("run-1", event=1))
    wait_a_millisecond()
    record_run(tmp_path, run_row("run-2"))
    wait_a_millisecond()
    second = publish(tmp_path, [0], "run-2", recipe="recipe-b")
    wait_a_millisecond()
    record_run(tmp_path, run_row("run-2", event=1))
    old, new = Catalog(tmp_path, version=first), Catalog(tmp_path, version=second)
    assert (old.samples().count_rows(), new.samples().count_rows()) == (4, 8)
    assert old.run("run-1")["status"] == "complete"
    assert old.run("run-2")["status"] == "started"
    assert new.run("run-2")["status"] == "complete"
    assert [commit["version"] for commit in old.history()] == [first, 0]


def test_as_of_the_time_that_history_shows_is_that_version_even_in_a_copy(tmp_path):
    for i in range(5):
        publish(tmp_path / "a", [i])
        wait_a_millisecond()
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # new dates
    for commit in Catalog(tmp_path / "a").history():
        view = Catalog(tmp_path / "b", as_of=commit["time"])
        assert view.version == commit["version"]
        assert view.samples().count_rows() == 4 * commit["version"]


def test_as_of_before_the_beginning_is_empty_and_of_tomorrow_is_now(tmp_path):
    publish(tmp_path, [0])
    assert Catalog(tmp_path, as_of="2001-01-01").samples().count_rows() == 0
    assert Catalog(tmp_path, as_of="2101-01-01T00:00:00").version == 1


def test_wrong_views_are_refused(tmp_path):
    publish(tmp_path, [0])
    with pytest.raises(CatalogError, match="both given"):
        Catalog(tmp_path, version=1, as_of="2026-01-01")
    with pytest.raises(CatalogError, match="'yesterday' is no ISO 8601 time"):
        Catalog(tmp_path, as_of="yesterday")
    with pytest.raises(CatalogError, match="version 7"):
        Catalog(tmp_path, version=7).samples()


def test_a_view_does_not_move_while_others_publish(tmp_path):
    publish(tmp_path, [0])
    catalog = Catalog(tmp_path)
    assert catalog.samples().count_rows() == 4
    publish(tmp_path, [1])
    assert catalog.samples().count_rows() == 4
    assert Catalog(tmp_path).samples().count_rows() == 8


def test_dataset_filters_skip_files(tmp_path):
    for i, guidance in enumerate((1.0, 1.5, 2.0)):
        publish(tmp_path, [i], guidance_scale=guidance)
    samples = Catalog(tmp_path).samples()
    fragments = list(samples.get_fragments(filter=ds.field("guidance_scale") > 1.6))
    assert len(fragments) == 1
    assert samples.count_rows(filter=ds.field("guidance_scale") > 1.2) == 8
    assert list(samples.get_fragments(filter=ds.field("run_id") == "run-9")) == []


@pytest.mark.parametrize("subset", [{"count": 7}, {"fraction": 0.3}, {"fraction": 1.0}])
def test_sampled_ids_depend_on_the_set_and_the_seed_alone(tmp_path, subset):
    publish(tmp_path / "a", range(10))
    for i in reversed(range(10)):
        publish(tmp_path / "b", [i])
    first, second = (Catalog(tmp_path / x).sample_ids(seed=1, **subset) for x in "ab")
    assert first == second
    assert len(set(first)) == len(first) == subset.get("count", 40 * subset.get("fraction", 0))
    other = Catalog(tmp_path / "a").sample_ids(seed=2, **subset)
    assert (set(other) == set(first)) == (subset == {"fraction": 1.0})


def test_sampled_ids_are_of_accepted_images_unless_asked(tmp_path):
    rows = [sample_row(i) for i in range(4)]
    rows[2] = rejected(rows[2], "blur: 0.1 < 0.2")
    file = write_batch(tmp_path, run_id="run-1", batch_index=0, rows=rows_table(rows))
    SampleSink(tmp_path, "run-1").commit([file])
    catalog = Catalog(tmp_path)
    assert rows[2]["image_id"] not in catalog.sample_ids(count=3)
    assert rows[2]["image_id"] in catalog.sample_ids(count=4, accepted_only=False)
    with pytest.raises(CatalogError, match=r"4 images asked, .* holds 3"):
        catalog.sample_ids(count=4)


@pytest.mark.parametrize(
    "subset",
    [{}, {"fraction": 0.1, "count": 1}, {"fraction": 0.0}, {"fraction": 1.5}, {"count": -1}],
)
def test_impossible_subsets_are_refused(tmp_path, subset):
    publish(tmp_path, [0])
    with pytest.raises(CatalogError, match=r"Give a fraction|Ask for fewer"):
        Catalog(tmp_path).sample_ids(**subset)


def wait_a_millisecond():
    """Commit times are whole milliseconds."""
    import time

    time.sleep(0.003)
