"""Files that were cut, lost or changed on a disk: one line that names the file and the way out."""

import json
import random
import re

import pyarrow as pa
import pytest

from catalog import Catalog, SampleSink, record_run, sql, write_batch
from factory.errors import CatalogError
from tests.fakes.rows import batch_rows, run_row

LAST, EVERY = "SELECT * FROM samples WHERE recipe_index >= 8", "SELECT * FROM samples"
IDS = batch_rows(2)["image_id"].to_pylist()


@pytest.fixture
def uri(tmp_path):
    """Three batches, versions 1 to 3, and a run."""
    for index in range(3):
        file = write_batch(tmp_path, run_id="run-1", batch_index=index, rows=batch_rows(index))
        SampleSink(tmp_path, "run-1").commit([file])
    record_run(tmp_path, run_row())
    return tmp_path


def entry(uri, number, table="samples"):
    return uri / table / "_delta_log" / f"{number:020d}.json"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def junk(path):
    path.write_bytes(b"\xff\xfe no json\n")


def gone(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "number", "what", "way_out"),
    [
        (cut, 3, "is cut or damaged", "move it away: the catalog is then as of version 2 again"),
        (empty, 3, "is cut or damaged", "move it away: the catalog is then as of version 2 again"),
        (junk, 3, "is cut or damaged", "move it away"),
        (empty, 2, "is cut or damaged", "move it and all later ones away: .* as of version 1"),
        (gone, 2, "is missing", "move it and all later ones away: .* as of version 1"),
    ],
)
def test_a_broken_log_entry_is_named_with_the_way_out(uri, harm, number, what, way_out):
    """An empty one most of all: delta-rs takes it for a commit that changes nothing."""
    path = entry(uri, number)
    harm(path)
    for use in (Catalog, lambda place: Catalog(place, version=1), lambda p: SampleSink(p, "run-1")):
        with pytest.raises(CatalogError) as caught:
            use(uri)
        message = str(caught.value)
        assert message.startswith(f"log entry '{path}' of the catalog {what}")
        assert re.search(way_out, message)
        assert "unknown>" not in message
        assert len(message) < 700


def test_the_way_out_leads_out(uri):
    entry(uri, 3).write_bytes(b"")
    with pytest.raises(CatalogError, match="move it away"):
        Catalog(uri)
    entry(uri, 3).rename(uri / "broken.json")
    assert Catalog(uri).samples().count_rows() == 8
    file = write_batch(uri, run_id="run-1", batch_index=2, rows=batch_rows(2))
    assert SampleSink(uri, "run-1").commit([file]) == 3
    assert Catalog(uri).samples().count_rows() == 12


def test_a_broken_log_of_another_table_is_named(uri):
    cut(entry(uri, 1, "runs"))
    with pytest.raises(CatalogError, match=r"log entry '.*/runs/_delta_log/0+1\.json'"):
        sql(Catalog(uri), EVERY)


@pytest.mark.parametrize("line", ["{", "[]", '{"commitInfo": {}}', '{"commitInfo": 7}',
                                  '{"commitInfo": {"timestamp": 1e99}}'])  # fmt: skip
def test_a_commit_without_a_time_is_named_when_times_are_asked_for(uri, line):
    text = entry(uri, 3).read_text().splitlines()
    entry(uri, 3).write_text("\n".join([line, *[t for t in text if "commitInfo" not in t]]) + "\n")
    with pytest.raises(CatalogError, match=r"0+3\.json' of the catalog"):
        print(Catalog(uri, as_of="2099-01-01").version)


@pytest.mark.parametrize("note", [{"run_id": {"a": 1}, "num_rows": "many"}, {"timestamp": "now"},
                                  {"batches": [1], "num_rows": 2.5}, {"operation": 3}])  # fmt: skip
def test_a_note_of_others_in_the_log_is_shown_as_text(uri, note):
    actions = [json.loads(line) for line in entry(uri, 3).read_text().splitlines()]
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"] |= note
    entry(uri, 3).write_text("\n".join(map(json.dumps, actions)) + "\n")
    try:
        commits = Catalog(uri).history()
    except CatalogError:  # delta-rs reads no further
        return
    names = ("version", "time", "operation", "run_id", "batches", "num_rows")
    assert len(pa.table({name: [c.get(name) for c in commits] for name in names})) == 4


def data_of(uri):
    (path,) = (uri / "samples").rglob("batch-00000002-*.parquet")
    return path


@pytest.mark.parametrize("harm", [cut, empty, junk, gone])
def test_a_data_file_that_is_lost_or_cut_is_named(uri, harm):
    path = data_of(uri)
    harm(path)
    for use in (lambda c: sql(c, LAST), lambda c: c.rows(IDS), lambda c: c.sample_ids(count=12)):
        with pytest.raises(CatalogError, match=rf"{path.name} (is gone|has \d+ bytes).*Restore it"):
            use(Catalog(uri))


@pytest.mark.parametrize("flips", [24, pytest.param(240, marks=pytest.mark.slow)])
def test_a_flipped_byte_is_named_wherever_it_is_and_changes_no_value(uri, flips):
    """A class would be another one: pages carry checksums, and are read with them."""
    path = data_of(uri)
    whole = path.read_bytes()
    wanted = Catalog(uri).rows(IDS)
    told = []
    for place in random.Random(0).sample(range(len(whole)), flips):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(bytes(content))
        try:
            found = Catalog(uri).rows(IDS)
        except CatalogError as error:
            told.append(str(error))
        else:
            assert found.equals(wanted)
    assert len(told) > flips / 2
    assert [message for message in told if path.name not in message or len(message) > 700] == []


def test_damage_is_told_by_sql_as_by_rows(uri):
    path = data_of(uri)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CatalogError, match=rf"{path.name} is damaged \(.*Restore it, or read"):
        sql(Catalog(uri), LAST)
    assert len(sql(Catalog(uri, version=2), EVERY)) == 8
