import multiprocessing as mp
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from catalog import Catalog, SampleSink, write_batch
from catalog.place import Place, check_options, local_path, table_uri
from catalog.schema import SCHEMA_VERSION_KEY
from catalog.store import check_place, ensure_table, open_table
from factory.errors import CatalogError
from tests.fakes.rows import batch_rows

ROOT = Path(__file__).parents[2]


def test_uris_of_tables(tmp_path):
    assert table_uri("s3://bucket/wbc/", "samples") == "s3://bucket/wbc/samples"
    assert table_uri(tmp_path, "runs") == f"{tmp_path}/runs"
    assert table_uri(f"file://{tmp_path}/a%20b", "runs") == f"{tmp_path}/a b/runs"
    assert local_path("s3://bucket/wbc") is None


@pytest.mark.parametrize(
    "uri",
    ["", " ", "s3://", "s3:/bucket/x", "http://host/x", "file://host/x", "hdfs://host/x"],
)
def test_a_uri_that_names_no_place_is_refused_with_those_that_do(uri):
    for use in (table_uri, lambda uri, _: check_place(uri), lambda uri, _: Catalog.create(uri)):
        with pytest.raises(CatalogError, match=r"empty|names no place.*s3://"):
            use(uri, "samples")


@pytest.mark.parametrize("name", ["a b", "a%b", "a#b", "a?b", "[x]", "a&b=c", "ü", "日本", "a'b"])
def test_a_folder_of_almost_any_name_holds_a_catalog(tmp_path, name):
    uri = tmp_path / name
    for batch in range(2):
        file = write_batch(uri, run_id="run-1", batch_index=batch, rows=batch_rows(batch))
        SampleSink(uri, "run-1").commit([file])
    assert Catalog(uri).samples().count_rows() == 8
    assert Catalog(uri, version=1).samples().count_rows() == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "uri",
    ["a%20b", "a%2Fb", "a\\b", "a\nb", "a\x1bb", "bad\udcff", "file:///a%2520b", "s3://lab/a#b",
     "s3://lab/a?b", "s3://lab/a%20b", "s3://lab/a\nb"],
)  # fmt: skip
def test_a_place_that_tables_read_as_another_one_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, uri
):
    """delta-rs makes the log in 'a%20b' and looks for it in 'a b', and drops what follows '#'."""
    monkeypatch.chdir(tmp_path)
    uses = (table_uri, lambda uri, _: check_place(uri), lambda uri, _: Catalog.create(uri),
            lambda uri, _: SampleSink(uri, "run-1"), lambda uri, _: Catalog(uri))  # fmt: skip
    for use in uses:
        with pytest.raises(CatalogError, match=r"read as another place\. Choose one without"):
            use(uri, "samples")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["s3://me:CANARY@lab/x", "s3://KEY:CAN/ARY@lab", "http://me:CANARY@h"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri):
    with pytest.raises(CatalogError, match=r"holds a password.*--storage-option") as caught:
        Catalog(uri)
    assert "ARY" not in str(caught.value)


def test_log_and_data_of_a_catalog_in_the_home_folder_lie_together(tmp_path, monkeypatch):
    """delta-rs expands '~' by itself; the files must not stay in a folder called '~'."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    file = write_batch("~/lab", run_id="run-1", batch_index=0, rows=batch_rows(0))
    SampleSink("~/lab", "run-1").commit([file])
    monkeypatch.chdir(tmp_path)
    assert Catalog("~/lab").samples().count_rows() == 4
    assert Catalog(home / "lab").samples().count_rows() == 4
    assert list(work.iterdir()) == []


def test_a_place_is_checked_without_making_anything(tmp_path):
    check_place(tmp_path / "new" / "catalog")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match=r"no writable folder.*Check the path"):
        check_place(tmp_path / "file" / "catalog")


def test_catalog_in_a_folder_with_a_space_given_as_file_uri(tmp_path):
    uri = f"file://{tmp_path}/my%20catalog"
    file = write_batch(uri, run_id="run-1", batch_index=0, rows=batch_rows(0))
    SampleSink(uri, "run-1").commit([file])
    assert Catalog(tmp_path / "my catalog").samples().count_rows() == 4


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_unsafe_rename_is_refused(value, monkeypatch):
    with pytest.raises(CatalogError, match="AWS_S3_ALLOW_UNSAFE_RENAME"):
        check_options(Place("s3://bucket/x", {"AWS_S3_ALLOW_UNSAFE_RENAME": value}))
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", value)
    with pytest.raises(CatalogError, match="overwrite each other"):
        check_options("s3://bucket/x")
    check_options("/local/x")


def test_table_of_a_newer_factory_is_refused_with_the_remedy(tmp_path):
    table = ensure_table(tmp_path, "samples")
    table.alter.set_table_properties({SCHEMA_VERSION_KEY: "2"}, raise_if_not_exists=False)
    for use in (lambda: Catalog(tmp_path), lambda: SampleSink(tmp_path, "run-1")):
        with pytest.raises(CatalogError, match=r"newer factory .*Upgrade medimage-factory"):
            use()


def test_table_made_newer_between_opening_and_commit_gets_nothing(tmp_path):
    file = write_batch(tmp_path, run_id="run-1", batch_index=0, rows=batch_rows(0))

    def upgrade(step):
        table = DeltaTable(tmp_path / "samples")
        if step == "before_commit" and table.version() == 0:
            table.alter.set_table_properties({SCHEMA_VERSION_KEY: "2"}, raise_if_not_exists=False)

    sink = SampleSink(tmp_path, "run-1", on_step=upgrade)
    with pytest.raises(CatalogError, match="newer factory"):
        sink.commit([file])
    assert DeltaTable(tmp_path / "samples").file_uris() == []


def test_foreign_delta_table_is_refused(tmp_path):
    write_deltalake(tmp_path / "samples", pa.table({"x": [1]}))
    with pytest.raises(CatalogError, match="no table of a catalog"):
        SampleSink(tmp_path, "run-1")


def test_missing_catalog_and_missing_version_name_the_way_out(tmp_path):
    with pytest.raises(CatalogError, match=r"no catalog at .*Check the --catalog URI"):
        Catalog(tmp_path / "nowhere")
    ensure_table(tmp_path, "samples")
    with pytest.raises(CatalogError, match=r"at version 9 .*factory catalog history"):
        open_table(tmp_path, "samples", version=9)


def test_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for use in (
        lambda: SampleSink(tmp_path / "file" / "catalog", "run-1"),
        lambda: write_batch(
            tmp_path / "file" / "catalog", run_id="run-1", batch_index=0, rows=batch_rows(0)
        ),
    ):
        with pytest.raises(CatalogError, match="Check the path, its permissions"):
            use()


def test_no_space_left_publishes_nothing_and_leaves_no_part_of_a_file(tmp_path):
    """A limit on file size stands for the full disk: the same error, without a disk to fill."""
    script = """
import resource, sys
from catalog import SampleSink, write_batch
from factory.errors import CatalogError
from tests.fakes.rows import batch_rows
uri = sys.argv[1]
sink = SampleSink(uri, "run-1")
file = write_batch(uri, run_id="run-1", batch_index=0, rows=batch_rows(0))
for limit, work in (
    (4000, lambda: write_batch(uri, run_id="run-1", batch_index=1, rows=batch_rows(1))),
    (100, lambda: sink.commit([file])),
):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        work()
    except CatalogError as error:
        print("refused:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("held", len(sink.published()))
print("version", sink.commit([file]), "held", len(sink.published()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 4
    assert all("no space left while writing" in line for line in lines[:2])
    assert lines[2:] == ["held 0", "version 1 held 1"]
    assert len(list(tmp_path.rglob("*batch-*"))) == 1


def test_processes_that_create_one_catalog_at_once_make_one_table(tmp_path):
    """deltalake with mode='ignore' commits a second CREATE TABLE here (measured)."""
    spawn = mp.get_context("spawn")  # deltalake does not survive a fork
    barrier, results = spawn.Barrier(3), spawn.Queue()
    workers = [
        spawn.Process(target=_create, args=(str(tmp_path), i, barrier, results)) for i in range(3)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=900) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == ["done"] * 3
    history = DeltaTable(tmp_path / "samples").history()
    assert [commit["operation"] for commit in history].count("CREATE TABLE") == 1
    assert Catalog(tmp_path).samples().count_rows() == 3 * 4


def _create(uri, number, barrier, results):
    file = write_batch(uri, run_id=f"run-{number}", batch_index=0, rows=batch_rows(0))
    barrier.wait()
    try:
        SampleSink(uri, f"run-{number}").commit([file])
        results.put("done")
    except Exception as error:
        results.put(repr(error))
