"""Folders of several kinds of files: what holds most images is read, the rest is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.errors import DataError
from factory.real.smear import write_smear
from factory.real.sources import open_dataset
from tests.real.builders import class_folder, encoded, png, put, write_table
from tests.real.test_dicom import grey, instance


def said(dataset):
    return {one.kind: one.count for one in dataset.not_read}


def parquet(path, count, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values[:count] for name, values in columns.items()}), path)


def test_a_folder_may_be_called_as_a_source_is(tmp_path, monkeypatch):
    write_smear(tmp_path / "smear", 5, size_px=16)
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("smear")) == 5


def test_one_dicom_among_pictures_decides_nothing(tmp_path):
    root = class_folder(tmp_path)
    instance(root / "a/scan.dcm", grey())
    made = open_dataset(root)
    assert (made.labels, said(made)) == (("a", "a", "b", "b"), {".dcm": 1})
    assert len(open_dataset(f"dicom:{root}")) == 1


def test_one_picture_among_dicom_decides_nothing(tmp_path):
    for n in range(3):
        instance(tmp_path / f"a/IM{n}", grey(top=90 + n), number=n)
    put(tmp_path / "a/preview.png", png(1))
    put(tmp_path / "notes.txt", b"x")
    made = open_dataset(tmp_path)
    assert (made.labels, said(made)) == (("a",) * 3, {".png": 1, ".txt": 1})


def test_as_many_of_one_kind_as_of_another_are_for_the_caller_to_choose(tmp_path):
    for n in range(2):
        instance(tmp_path / f"images/{n}.dcm", grey(top=90 + n), number=n)
        put(tmp_path / f"masks/{n}.png", png(n))
    with pytest.raises(DataError, match=r"as many pictures as DICOM files: 2\. Give dicom:FOLDER"):
        open_dataset(tmp_path)


def test_a_parquet_file_beside_pictures_decides_nothing(tmp_path):
    root = class_folder(tmp_path)
    columns = {"file": ["gone.png"] * 9, "label": ["x"] * 9, "age": list(range(9))}
    parquet(root / "features.parquet", 9, **columns)
    made = open_dataset(root)
    assert (made.class_names, said(made)) == (("a", "b"), {".parquet": 1})


def test_a_parquet_table_of_the_pictures_beside_it_is_read(tmp_path):
    root = class_folder(tmp_path, images="images")
    files = ["images/a/1.png", "images/b/1.png", "images/b/2.png"]
    parquet(root / "table.parquet", 3, file=files, label=["x", "y", "y"])
    made = open_dataset(root)
    assert (made.labels, said(made)) == (("x", "y", "y"), {".png": 1})


def test_a_preview_beside_parquet_parts_is_named(tmp_path):
    pictures = [png(n) for n in range(6)]
    parquet(tmp_path / "part-0.parquet", 6, image=pictures, label=["a"] * 6)
    put(tmp_path / "preview.png", png(9))
    put(tmp_path / ".cache/x.parquet", b"x")
    made = open_dataset(tmp_path)
    assert (len(made), said(made)) == (6, {"hidden": 1, ".png": 1})
    parquet(tmp_path / "part-0.parquet", 1, image=pictures, label=["a"] * 6)
    with pytest.raises(DataError, match="as many pictures as Parquet rows: 1"):
        open_dataset(tmp_path)


def pairs(root, *values):
    for n in range(4):
        mask = np.zeros((10, 12), np.uint8)
        for k, value in enumerate(values):
            mask[3 * k : 3 * k + 3, 2:10] = value
        put(root / f"images/{n}.png", png(n))
        put(root / f"masks/{n}.png", encoded(mask))
    return root


def test_options_may_stand_behind_a_path(tmp_path):
    root = pairs(tmp_path / "set", 1, 2, 7)
    rows = [{"file": f"{n}.png", "ward": f"w{n // 2}", "kind": "k"} for n in range(4)]
    write_table(root / "metadata.csv", rows)
    said = open_dataset(f"{root}?masks=object&group=ward&label=kind")
    assert (
        said.fingerprint
        == open_dataset(root, masks="object", group="ward", label="kind").fingerprint
    )
    assert (set(said.groups), set(said.labels)) == ({"w0", "w1"}, {"k"})
    with pytest.raises(DataError, match=r"unknown key .mask.\. Choose of label, image, group"):
        open_dataset(f"{root}?mask=object")
    with pytest.raises(DataError, match=r"follow_links=1\. Write follow_links=yes"):
        open_dataset(f"{root}?follow_links=1")
    (tmp_path / "set?masks=object").mkdir()  # a name that exists is a name
    with pytest.raises(DataError, match="holds no images"):
        open_dataset(f"{root}?masks=object")


def test_a_rule_for_masks_is_part_of_the_fingerprint(tmp_path):
    root = pairs(tmp_path, 1, 2, 7)
    stored = open_dataset(root)
    assert np.unique(stored.mask(0)).tolist() == [0, 1, 2, 7]
    prints = {stored.fingerprint}
    for rule, values in [("object", [0, 255]), ("2", [0, 255]), ("0,7", [0, 7]), ("none", None)]:
        made = open_dataset(root, masks=rule)
        mask = made.mask(0)
        assert (None if mask is None else np.unique(mask).tolist()) == values
        prints.add(made.fingerprint)
        if values:
            assert np.unique(made.mask_array(8)).tolist() == values
            assert [count.value for count in made.contents[0].mask_values] == values
            assert made.select(made.ids[:1]).mask_rule == made.mask_rule
    assert len(prints) == 5
    assert said(open_dataset(root, masks="none")) == {"mask": 4}


@pytest.mark.parametrize(
    "rule", ["", "half", "0", "256", "5,5", "255,0", "-1,4", "1.5", "object,1"]
)
def test_what_is_no_rule_is_refused(tmp_path, rule):
    if rule == "":
        assert open_dataset(pairs(tmp_path, 1), masks=rule).mask_rule is None
        return
    with pytest.raises(DataError, match=f"masks '{rule}' is no rule"):
        open_dataset(pairs(tmp_path, 1), masks=rule)


def test_pictures_that_no_row_of_a_table_names_are_counted(tmp_path):
    root = class_folder(tmp_path, images="images")
    rows = [{"file": f"images/{name}.png", "class": "x"} for name in ("a/1", "a/2", "b/1")]
    put(root / "images/b/3.JPG", png(7))
    put(root / "images/b/notes.txt", b"x")
    made = open_dataset(write_table(root / "some.csv", rows))
    assert said(made) == {".png in no row": 1, ".jpg in no row": 1}
    columns = {name: [row[name] for row in rows] for name in ("file", "class")}
    parquet(root / "some.parquet", 3, **columns)
    assert said(open_dataset(root / "some.parquet")) == said(made)
