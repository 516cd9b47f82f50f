import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.errors import DataError
from factory.real.sources import open_dataset
from tests.real.builders import class_folder, encoded, png, put, write_table

NAMES = ["a/1", "a/2", "b/1", "b/2"]


def rows(**extra: str) -> list[dict[str, str]]:
    return [{"file": f"images/{n}.png", "class": n[0], **extra} for n in NAMES]


def test_csv_of_a_class_folder_gives_the_same_dataset(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    table = [
        {**row, "mask": f"masks/{n}.png", "case": f"c{n[-1]}", "note": n}
        for row, n in zip(rows(), NAMES, strict=True)
    ]
    path = write_table(root / "metadata.csv", table)
    assert open_dataset(path).fingerprint == open_dataset(root).fingerprint
    assert open_dataset(path).groups == ("c1", "c2", "c1", "c2")


def test_numbers_in_csv_stay_text(tmp_path):
    put(tmp_path / "x.png", png(1))
    table = [{"image_id": "007", "path": "x.png", "label": "01", "dose": "1.50"}]
    made = open_dataset(write_table(tmp_path / "t.csv", table))
    assert (made.ids, made.labels, made.attributes["007"]) == (("007",), ("01",), {"dose": "1.50"})


def test_columns_can_be_named(tmp_path):
    put(tmp_path / "x.png", png(1))
    table = [{"scan": "x.png", "diagnosis": "ill", "who": "p9", "age": "70", "sex": "f"}]
    path = write_table(tmp_path / "t.csv", table)
    made = open_dataset(path, image="scan", label="diagnosis", group="who", attributes=["age"])
    assert (made.labels, made.groups) == (("ill",), ("p9",))
    assert made.attributes["x"] == {"age": "70"}
    with pytest.raises(DataError, match="no image column"):
        open_dataset(path, label="diagnosis")
    with pytest.raises(DataError, match="no label column"):
        open_dataset(path, image="scan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\nx.png\n", "line 2 has not the 2 cells"),
        ("file,class\nx.png,a,b\n", "line 2 has not the 2 cells"),
        ("file,class\nx.png,\n", "line 2 has no label"),
        ("file,class\n,a\n", "line 2 names no image"),
        ("file,class\ngone.png,a\n", r"gone\.png cannot be read"),
        ("file,class\nx.png,a\nx.png,a\n", "'x' belongs to 2 images"),
        ("file,class\n", "lists no image. Check that it has rows"),
        ("", "no image column: .*separated by commas"),
        ("file;class\nx.png;a\n", "no image column: .*separated by commas"),
        ("file,class,class\nx.png,a,b\n", "has the column 'class' twice"),
        ("file,class\n.,a\n", "line 2 names no image"),
        ("file,class\nx\0.png,a\n", "cannot be read"),
        ("file,class\nx.png,\xe9\n", "cannot be read as CSV"),
    ],
)
def test_bad_csv_names_table_and_line(tmp_path, text, message):
    put(tmp_path / "x.png", png(1))
    path = put(tmp_path / "t.csv", text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_skip_broken_leaves_out_a_row_whose_file_is_gone(tmp_path):
    put(tmp_path / "x.png", png(1))
    path = put(tmp_path / "t.csv", b"file,class\nx.png,a\ngone.png,a\n")
    made = open_dataset(path, skip_broken=True)
    assert made.ids == ("x",)
    assert "gone.png" in made.broken[0]


def parquet(path, images, *, row_group_size=2, **columns):
    table = pa.table({"image": images, "label": list("aabb"), **columns})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_parquet_structs_bytes_and_paths_hold_the_same_images(tmp_path):
    data = [png(n) for n in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    structs = pa.array([{"bytes": d, "path": f"{n}.png"} for n, d in enumerate(data)], kind)
    for n, d in enumerate(data):
        put(tmp_path / f"{n}.png", d)
    paths = [f"{n}.png" for n in range(4)]
    by_struct = open_dataset(parquet(tmp_path / "s.parquet", structs))
    by_path = open_dataset(parquet(tmp_path / "p.parquet", paths))
    by_bytes = open_dataset(parquet(tmp_path / "b.parquet", data, image_id=list("0123")))
    assert by_struct.ids == ("0", "1", "2", "3")
    assert by_struct.fingerprint == by_path.fingerprint == by_bytes.fingerprint
    assert by_struct.encoded(3) == data[3]


def test_parquet_parts_are_one_dataset_with_numbered_ids(tmp_path):
    for part in range(2):
        data = [png(4 * part + n) for n in range(4)]
        parquet(tmp_path / f"part-{part}.parquet", data, row_group_size=3, age=[1, 2, None, 4])
    made = open_dataset(tmp_path)
    assert made.ids[0] == "00000000"
    assert made.ids[7] == "00000007"
    assert made.attributes["00000005"] == {"age": "2"}
    assert made.attributes["00000006"] == {}
    assert made.encoded(6) == png(6)


def test_parquet_masks_are_read(tmp_path):
    masks = [encoded(np.full((10, 12), n, np.uint8)) for n in range(4)]
    path = parquet(tmp_path / "m.parquet", [png(n) for n in range(4)], mask=masks)
    made = open_dataset(path)
    assert [int(made.mask(i).max()) for i in range(4)] == [0, 1, 2, 3]


def test_parquet_faults_are_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.parquet is no readable Parquet file"):
        open_dataset(put(tmp_path / "t.parquet", b"PAR1 cut off"))
    with pytest.raises(DataError, match="'image' is int64, no image"):
        open_dataset(parquet(tmp_path / "i.parquet", [1, 2, 3, 4]))
    empty = parquet(tmp_path / "n.parquet", pa.array([png(0), None, png(2), png(3)], pa.binary()))
    with pytest.raises(DataError, match=r"n\.parquet row group 0 row 1 has no bytes"):
        open_dataset(empty)
    assert len(open_dataset(empty, skip_broken=True)) == 3
