import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.batch import BatchFile, batch_index_of, write_batch
from catalog.schema import STATISTICS
from factory.errors import CatalogError
from tests.fakes.rows import CLASSES, batch_rows, png, rejected, rows_table, sample_row


def write(uri, rows, batch_index=0, run_id="run-1"):
    return write_batch(uri, run_id=run_id, batch_index=batch_index, rows=rows)


def test_equal_rows_give_equal_files_whatever_their_chunks_and_column_order(tmp_path):
    rows = batch_rows(3)
    chunked = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
    shuffled = chunked.select(list(reversed(chunked.column_names)))
    first, second = write(tmp_path / "a", rows, 3), write(tmp_path / "b", shuffled, 3)
    assert first == second
    read = [(tmp_path / x / "samples" / first.path).read_bytes() for x in "ab"]
    assert read[0] == read[1]
    assert len(read[0]) == first.size_bytes


def test_other_rows_of_the_same_batch_get_another_name(tmp_path):
    first = write(tmp_path, batch_rows(0))
    second = write(tmp_path, batch_rows(0, engine='{"device":"cuda"}'))
    assert first.path != second.path
    assert batch_index_of(first.path) == batch_index_of(second.path) == 0


def test_batch_is_read_from_the_name_only_where_it_is_one():
    assert batch_index_of("/x/run_id=r/batch-00000017-0123456789abcdef.parquet") == 17
    assert batch_index_of("run_id=r/part-00000-0123.zstd.parquet") is None


def test_batch_file_is_plain_data(tmp_path):
    file = write(tmp_path, batch_rows(0))
    assert BatchFile(**json.loads(json.dumps(dataclasses.asdict(file)))) == file


def test_counts_tell_what_each_gate_rejected(tmp_path):
    rows = [sample_row(i) for i in range(4)]
    rows[1] = rejected(rows[1], "blank: std 0.001 < 0.02")
    rows[2] = rejected(rows[2], "blank: std 0.002 < 0.02", "blur: 0.1 < 0.2")
    file = write(tmp_path, rows_table(rows))
    assert (file.num_rows, file.num_accepted, file.num_rejected) == (4, 2, 2)
    assert json.loads(file.rejected_by_gate) == {"blank": 2, "blur": 1}
    assert file.pixel_bytes == sum(len(row["image"]["bytes"]) for row in rows)


def test_statistics_bound_the_rows(tmp_path):
    stats = json.loads(write(tmp_path, batch_rows(2)).stats)
    assert stats["numRecords"] == 4
    assert set(stats["minValues"]) == set(stats["maxValues"]) == set(STATISTICS)
    assert (stats["minValues"]["recipe_index"], stats["maxValues"]["recipe_index"]) == (8, 11)
    assert stats["minValues"]["class_name"] == min(CLASSES[i % 5] for i in range(8, 12))
    # 123456 microseconds lie between these milliseconds
    assert stats["minValues"]["created_at"] == "2026-11-21T05:00:00.123Z"
    assert stats["maxValues"]["created_at"] == "2026-11-21T05:00:00.124Z"


def test_pixels_come_back_bit_for_bit_and_lie_uncompressed(tmp_path):
    mask = png(7)
    row = sample_row(5)
    row["mask"] = {"bytes": mask, "path": f"{row['image_id']}.png"}
    file = write(tmp_path, rows_table([row]))
    stored = pq.ParquetFile(tmp_path / "samples" / file.path)
    read = stored.read().to_pylist()[0]
    assert read["image"] == row["image"]
    assert read["mask"]["bytes"] == mask
    assert Image.open(io.BytesIO(read["image"]["bytes"])).getpixel((0, 0)) == (5, 0, 128)
    group = stored.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in columns["image.bytes"].encodings
    assert columns["recipe"].compression == "ZSTD"
    assert "run_id" not in columns  # the folder says it


def test_a_batch_without_fields_has_the_bytes_it_had_before_they_were_known(tmp_path):
    file, rows = write(tmp_path, batch_rows(0)), batch_rows(0)
    assert file.path == write(tmp_path, rows.drop_columns(["pixel_size_um", "crop"])).path
    stored = pq.read_table(tmp_path / "samples" / file.path, partitioning=None)
    assert not {"pixel_size_um", "crop"} & set(stored.column_names)
    known = write(tmp_path, batch_rows(0, pixel_size_um=0.5))
    assert known.path != file.path
    stored = pq.read_table(tmp_path / "samples" / known.path, partitioning=None)
    assert stored["pixel_size_um"].to_pylist() == [0.5] * 4


def test_missing_nullable_columns_become_null(tmp_path):
    file = write(tmp_path, batch_rows(0).drop_columns(["mask", "bridge_depth", "copy_score"]))
    table = pq.read_table(tmp_path / "samples" / file.path, partitioning=None)
    assert table["mask"].null_count == table["bridge_depth"].null_count == 4


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda t: t.slice(0, 0), "no rows"),
        (lambda t: t.drop_columns(["seed"]), "'seed' is missing"),
        (lambda t: t.append_column("colour", pa.array(["red"] * 4)), "['colour']"),
        (lambda t: pa.concat_tables([t.slice(0, 3), t.slice(0, 1)]), "stands in it twice"),
        (lambda t: put(t, "seed", [1, None, 3, 4]), "'seed' holds null"),
        (lambda t: put(t, "class_id", ["a"] * 4), "'class_id' is string, not int32"),
        (lambda t: put(t, "blur_score", [0.1, float("nan"), 0.2, 0.3]), "'blur_score' holds nan"),
        (lambda t: put(t, "guidance_scale", [float("inf")] * 4), "'guidance_scale' holds inf"),
        (lambda t: put(t, "gate_status", ["maybe"] * 4), "'maybe'"),
        (lambda t: put(t, "gate_status", ["rejected"] * 4), "'rejected' with the gate_reasons []"),
        (lambda t: t.append_column("run_id", pa.array(["run-2"] * 4)), "'run_id' holds ['run-2']"),
        (lambda t: t.append_column("batch_index", pa.array([7] * 4)), "'batch_index' holds [7]"),
        (lambda t: put(t, "image", [{"bytes": b"", "path": "x"}] * 4), "has the path 'x'"),
        (lambda t: put(t, "image", [{"bytes": None, "path": None}] * 4), "None bytes"),
    ],
)
def test_rows_that_are_no_batch_are_refused_and_nothing_is_written(tmp_path, spoil, complaint):
    with pytest.raises(CatalogError) as caught:
        write(tmp_path, spoil(batch_rows(0)))
    assert complaint in str(caught.value)
    assert "batch 0 of run-1" in str(caught.value)
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", "a b", "x" * 129, "-x", "run=1", "it's"])
def test_run_id_that_is_no_folder_name_is_refused(tmp_path, run_id):
    with pytest.raises(CatalogError, match="no safe folder name"):
        write(tmp_path, batch_rows(0), run_id=run_id)


@pytest.mark.parametrize("batch_index", [-1, 2**31])
def test_batch_index_out_of_range_is_refused(tmp_path, batch_index):
    with pytest.raises(CatalogError, match="out of range"):
        write(tmp_path, batch_rows(0), batch_index=batch_index)


def put(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))
