"""The same promises on an object store (moto's on loopback, see tests/fakes/s3.py)."""

import threading
from datetime import timedelta
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from catalog import Catalog, SampleSink, record_run, sql, write_batch
from catalog.place import Place
from catalog.query import files_scanned
from catalog.releases import open_release, verify_release
from catalog.releasing import create_release
from catalog.store import filesystem
from catalog.upkeep import optimize, vacuum
from factory.errors import CatalogError
from tests.fakes.rows import STARTED, batch_rows, run_row, sample_row
from tests.fakes.s3 import s3_server

URI = "s3://bucket/some/catalog"


@pytest.fixture
def store():
    with s3_server() as served:
        yield served


def written(options, indices, **changes):
    return [
        write_batch(
            Place(URI, options),
            run_id="run-1",
            batch_index=i,
            rows=batch_rows(i, **changes),
        )
        for i in indices
    ]


def test_batches_are_published_once_and_read_back(store):
    options = store
    files = written(options, range(3))
    for _ in range(2):
        SampleSink(Place(URI, options), "run-1").commit(files)
    record_run(Place(URI, options), run_row())
    catalog = Catalog(Place(URI, options))
    assert catalog.version == 1
    assert catalog.samples().count_rows() == 12
    text = "SELECT image FROM samples WHERE recipe_index > 10"
    assert sql(catalog, text)["image"].to_pylist() == [sample_row(11)["image"]]
    assert files_scanned(catalog, text) == (1, 3)
    assert catalog.rows([sample_row(5)["image_id"]])["recipe_index"].to_pylist() == [5]
    assert catalog.run("run-1")["status"] == "started"
    assert Catalog(Place(URI, options), as_of=catalog.history()[0]["time"]).version == 1
    stored = filesystem(Place(URI, options), "samples").get_file_info(files[0].path)
    assert stored.size == files[0].size_bytes


def test_rival_writers_publish_each_batch_once(store):
    options = store
    files = written(options, range(6))
    failures = []

    def publish(chosen):
        try:
            for file in chosen:
                SampleSink(Place(URI, options), "run-1").commit([file])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(p,)) for p in (files, files[::-1], files[2:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    ids = Catalog(Place(URI, options)).samples().to_table()["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 24


def test_crash_between_put_and_commit_leaves_an_orphan_that_nobody_sees(store):
    options = store
    sink = SampleSink(Place(URI, options), "run-1")
    files = written(options, range(2))
    assert sink.published() == set()
    sink.commit(files[:1])
    assert Catalog(Place(URI, options)).samples().count_rows() == 4


def test_lost_object_is_noticed_before_anything_points_to_it(store):
    options = store
    file = written(options, [0])[0]
    key = quote(f"bucket/some/catalog/samples/{file.path}")
    urlopen(Request(f"{options['AWS_ENDPOINT_URL']}/{key}", method="DELETE")).close()
    with pytest.raises(CatalogError, match="has None bytes"):
        SampleSink(Place(URI, options), "run-1").commit([file])


@pytest.mark.slow
def test_a_release_lives_through_compaction_and_vacuum_and_a_lost_object_is_named(store):
    options = store
    SampleSink(Place(URI, options), "run-1").commit(written(options, range(3)))
    made = create_release(
        Place(URI, options), "wbc", where="batch_index < 2", now=STARTED, code_version="0"
    )
    assert optimize(Place(URI, options)).files_after == 1
    orphan = written(options, [8])[0]
    found = vacuum(Place(URI, options), retain=timedelta(0), dry_run=False)
    assert found.paths == [orphan.path]
    assert len(open_release(Place(URI, options), "wbc")) == made.num_images == 8
    assert verify_release(Place(URI, options), "wbc").problems == []
    lost = Catalog(Place(URI, options)).release_files()["path"][0].as_py()
    key = quote(f"bucket/some/catalog/samples/{lost}")
    urlopen(Request(f"{options['AWS_ENDPOINT_URL']}/{key}", method="DELETE")).close()
    assert verify_release(Place(URI, options), "wbc").problems[0] == f"file {lost} is gone"


def test_store_that_cannot_be_reached_is_an_error_without_the_secret(store):
    options = store
    dead = options | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "max_retries": "0",
    }
    with pytest.raises(CatalogError) as caught:
        written(dead, [0])
    assert "hush" not in str(caught.value)
